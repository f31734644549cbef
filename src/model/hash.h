/* What a model file is: its hash by samples, and the hash of its whole content. */
#ifndef KVS_MODEL_HASH_H
#define KVS_MODEL_HASH_H

#include "model/file_int.h"

/* f->hash: XXH3-128 of the canonical configuration, then in name order of each tensor its name, type, shape
 * and samples of its bytes (the first and the last 4 KiB and 14 blocks of 4 KiB at equal steps between them;
 * everything of a tensor that is not longer), then the stop ids. Reads at most 64 KiB of a tensor. */
void hash_file(struct model_file *f);

/* Hashes of whole tensors while the weights are read, and what they come to together. */
struct content {
    struct content_tensor {
        uint64_t hash[2];
        bool known;
    } * t; /* [f->n], as f->t */
};
void content_open(struct content *c, const struct model_file *f);
/* Hashes a tensor of that name unless it is known: XXH3-128 of the XXH3-128 of its pieces of 1 MiB, which do
 * not depend on the number of threads. */
void content_add(struct content *c, const struct model_file *f, const char *name, int threads);
/* Adds the tensors that nobody asked for and gives the hash of them all: name, type, shape and hash of each,
 * in name order. */
void content_close(struct content *c, const struct model_file *f, int threads, uint64_t hash[2]);

#endif
