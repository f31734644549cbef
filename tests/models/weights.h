/* Random tensors and the files that hold them, for the checkpoints of make_models.c. All is made from seeds
 * with whole numbers, additions and products: the same bytes on every machine. What fails ends the program.
 */
#ifndef KVS_TESTS_MODELS_WEIGHTS_H
#define KVS_TESTS_MODELS_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

enum weight_type { WEIGHT_F32, WEIGHT_F16, WEIGHT_BF16 };

struct made_tensor {
    char *name;
    enum weight_type type;
    int n_dim;
    int64_t n[4]; /* row-major, slowest first */
    size_t bytes;
    void *data;
    int same; /* index of the tensor whose storage this one shares, -1: its own */
};

struct weights {
    struct made_tensor *v; /* in the order of making */
    int n, cap;
    enum weight_type type; /* of most tensors */
    uint64_t state;        /* of the random numbers */
};

void weights_init(struct weights *w, enum weight_type type, uint64_t seed);
void weights_free(struct weights *w);

/* How values are spread: normal has mean and standard deviation, uniform lies in [mean, mean + spread). */
struct spread {
    double mean, spread;
    int uniform;
};
#define NORMAL(mean_, spread_)  ((struct spread){mean_, spread_, 0})
#define UNIFORM(from_, spread_) ((struct spread){from_, spread_, 1})
/* Standard deviation of a matrix whose rows have n_in values: outputs stay as large as inputs. */
#define MATRIX(n_in) NORMAL(0, weight_scale(n_in))
double weight_scale(int64_t n_in);

/* Adds a tensor; the shape ends with the first 0. `name` is a printf format. */
struct weight_shape {
    int64_t n[4];
};
#define SHAPE(...) ((struct weight_shape){{__VA_ARGS__}})
void weights_add(struct weights *w, enum weight_type type, struct weight_shape shape, struct spread s,
                 const char *name, ...) __attribute__((format(printf, 5, 6)));
/* A second name of tensor `of`, as tied embeddings are saved. */
void weights_alias(struct weights *w, const char *name, const char *of);

/* model.safetensors (github.com/huggingface/safetensors). Aliases are left out, as save_pretrained does. */
void weights_safetensors(const struct weights *w, const char *path);
/* What torch.save writes: a zip archive of stored entries, PREFIX/data.pkl in protocol 2. `state_dict`: an
 * OrderedDict with its attribute _metadata, else a plain dict. */
void weights_torch(const struct weights *w, const char *path, const char *prefix, int state_dict);

#endif
