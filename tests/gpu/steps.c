/* What a decode step sends to the GPU: launches, graphs, copies. Counted by the shim (tests/shim); on a GPU
 * there is nobody to count, and only the tokens of replayed steps are compared with those of single launches.
 * steps MODEL: one line per method, exit status 1 if a step sends more than it should or its logits differ.
 */
#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 40, STEPS = 12 };

/* As in tests/shim/cuda_shim.h. */
struct shim_counts {
    long launches, graphs, nodes, nodes_set, to_device, to_host, inside, memsets, waits;
};
typedef void count_fn(struct shim_counts *);

static count_fn *counter(void)
{
    void *lib = dlopen("libkvs_cuda.so", RTLD_NOW | RTLD_NOLOAD), *at = lib ? dlsym(lib, "shim_count") : NULL;
    count_fn *f = NULL;
    memcpy(&f, &at, sizeof f);
    return f;
}

/* Logits of every step, [STEPS, n_vocab], and what the last one sent. */
static int decode(struct model *m, const char *text, int n_seq, float *out, struct shim_counts *last)
{
    struct kv_spec spec = {0};
    struct seq_shape shape;
    struct tensor logits;
    struct seq *s = mem_alloc((size_t)n_seq, sizeof *s);
    struct batch_item *item = mem_alloc((size_t)n_seq, sizeof *item);
    struct ops *o = model_ops(m);
    count_fn *count = counter();
    struct shim_counts a = {0}, b = {0};
    int64_t V = model_config(m)->n_vocab;
    int32_t ids[PROMPT];
    int rc;
    for (int i = 0; i < PROMPT; i++)
        ids[i] = (int32_t)((i * 37 + 5) % V);
    TRY_GOTO(kv_spec_parse(&spec, text), done);
    TRY_GOTO(model_seq_shape(m, DT_BF16, &(struct model_overrides){.rope_theta_factor = 1}, &shape), done);
    for (int i = 0; i < n_seq; i++) {
        struct batch_item chunk = {.seq = &s[i], .ids = ids, .n = PROMPT - 1};
        TRY_GOTO(seq_open(&s[i], m, &shape, &spec, PROMPT, PROMPT + STEPS), done);
        TRY_GOTO(model_forward(m, &chunk, 1, LOGITS_NONE, &logits), done);
        chunk = (struct batch_item){.seq = &s[i], .ids = ids + PROMPT - 1, .n = 1};
        TRY_GOTO(model_forward(m, &chunk, 1, LOGITS_NONE, &logits), done);
    }
    for (int i = 0; i < STEPS; i++) {
        for (int k = 0; k < n_seq; k++)
            item[k] = (struct batch_item){.seq = &s[k], .ids = &ids[i], .n = 1};
        if (count)
            count(&a);
        TRY_GOTO(model_forward(m, item, n_seq, LOGITS_LAST, &logits), done);
        if (count)
            count(&b);
        o->copy(o, out + i * V, (float *)logits.data + (n_seq - 1) * V, (size_t)V * sizeof *out);
    }
    *last = (struct shim_counts){.launches = b.launches - a.launches,
                                 .graphs = b.graphs - a.graphs,
                                 .nodes = b.nodes - a.nodes,
                                 .nodes_set = b.nodes_set - a.nodes_set,
                                 .to_device = b.to_device - a.to_device,
                                 .inside = b.inside - a.inside,
                                 .waits = b.waits - a.waits};
    rc = o->sync(o);
done:
    for (int i = 0; i < n_seq; i++)
        seq_close(&s[i]);
    kv_spec_free(&spec);
    free(s);
    free(item);
    return rc;
}

static int one(struct model *fast, struct model *slow, const char *text, int n_seq, int most, int *failed)
{
    int64_t V = model_config(fast)->n_vocab;
    size_t bytes = (size_t)(STEPS * V) * sizeof(float);
    float *got = mem_alloc(1, bytes), *want = mem_alloc(1, bytes);
    struct shim_counts c, none;
    int n_layer = model_config(fast)->n_layer;
    int rc = decode(fast, text, n_seq, got, &c);
    if (rc == 0)
        rc = decode(slow, text, n_seq, want, &none);
    bool same = rc == 0 && memcmp(got, want, bytes) == 0;
    long kernels = rc == 0 ? c.launches + c.nodes : 0;
    /* beside the layers: the embedding, the last norm, the head */
    bool ok = same && (!counter() || (c.graphs == 1 && c.launches == 0 && c.to_device == 1 && c.inside == 0 &&
                                      c.waits <= 1 && kernels <= most * n_layer + 3));
    if (rc == 0)
        printf("  %-22s %2d sequences: %ld kernels (%.1f a layer), %ld graphs with %ld nodes changed, %ld "
               "copies to "
               "the GPU, %ld inside, %ld waits; logits %s%s\n",
               text, n_seq, kernels, (double)(kernels - 3) / n_layer, c.graphs, c.nodes_set, c.to_device,
               c.inside, c.waits, same ? "equal" : "differ", ok ? "" : "  FAILED");
    *failed += !ok;
    free(got);
    free(want);
    return rc;
}

static int open_model(const char *path, bool wait, struct ops **o, struct model **m)
{
    const struct ops_options opt = {.act = DT_BF16, .wait = wait};
    const struct model_options mo = {.dtype = DT_BF16, .threads = 1};
    struct model_file *f;
    TRY(ops_open(o, "cuda", &opt));
    TRY(model_file_open(&f, path));
    int rc = model_open(m, *o, f, &mo);
    model_file_close(f);
    return rc;
}

int main(int argc, char **argv)
{
    struct ops *o[2] = {NULL, NULL};
    struct model *m[2] = {NULL, NULL};
    int failed = 0, rc;
    if (argc != 2) {
        printf("usage: %s MODEL\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < 2; i++)
        TRY_GOTO(open_model(argv[1], i == 1, &o[i], &m[i]), done);
    /* norm, qkv, rotation, attention in two parts, o, norm, gate and up, down */
    TRY_GOTO(one(m[0], m[1], "full", 1, 9, &failed), done);
    TRY_GOTO(one(m[0], m[1], "full", 3, 9, &failed), done);
    /* one rotation more */
    TRY_GOTO(one(m[0], m[1], "streaming:keep=0.5", 1, 10, &failed), done);
    /* codes of the value that left its window */
    TRY_GOTO(one(m[0], m[1], "kivi:bits=2,residual=32,when=prefill", 1, 10, &failed), done);
done:
    if (rc < 0)
        printf("%s\n", err_text());
    else
        printf("steps: %d failed\n", failed);
    for (int i = 0; i < 2; i++) {
        model_close(m[i]);
        ops_close(o[i]);
    }
    return rc < 0 || failed;
}
