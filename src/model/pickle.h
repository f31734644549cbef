/* The part of Python's pickle format that torch.save needs for a dictionary of tensors. Nothing is ever
 * executed or looked up: the only names that are understood are OrderedDict, torch's two functions that
 * rebuild a tensor, and the three storages of weights; every other name and every other opcode is refused by
 * its name. Facts: Python's pickletools, torch/_utils.py (_rebuild_tensor_v2), torch/serialization.py
 * (persistent ids). */
#ifndef KVS_MODEL_PICKLE_H
#define KVS_MODEL_PICKLE_H

#include <stddef.h>
#include <stdint.h>

/* A tensor as the pickle describes it: values [at, at + product of n) of a storage of n_storage values. */
struct pickle_tensor {
    char *name;    /* owned */
    char *storage; /* key of its bytes in the archive, owned; tied tensors share one */
    int32_t type;  /* enum ggml_type: F32, F16 or BF16 */
    int32_t n_dim; /* 0 to 4 */
    int64_t n[4];  /* unused ones are 1 */
    int64_t at, n_storage;
};

/* The tensors of a pickled dictionary, in its order. ERR_INPUT names the file and what cannot be read:
 * another opcode or name, a value that is no tensor, strides that are not row-major, more than 4 dimensions,
 * a range beyond the storage. */
int pickle_read(const unsigned char *data, size_t bytes, const char *path, struct pickle_tensor **t, int *n);
void pickle_free(struct pickle_tensor *t, int n);

#endif
