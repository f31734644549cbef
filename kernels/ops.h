/* What a device can do. The backend `struct ops` holds every kernel that models and compressors use; it knows
 * tensors, not models. ops_ref.c (plain loops) is the meaning of each entry; cpu/ is the fast backend; cuda/
 * comes as a module.
 *
 * Letters in shapes: T rows (tokens) of one call, D width, H query heads, Hk key/value heads, d head
 * dimension, V vocabulary, N keys, G group length. All tensors are dense and row-major. Activations ("act")
 * have the dtype ops->act (f32 on CPUs, f16/bf16 on GPUs); accumulation is float32 everywhere.
 *
 * Determinism: no entry may split a reduction by thread, so results do not depend on the number of threads.
 * They may depend on shapes and on the instruction set.
 *
 * Errors: kernels return nothing. A failure (device fault, out of memory inside a library) is latched; sync()
 * returns it. */
#ifndef KVS_KERNELS_OPS_H
#define KVS_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DT_F32, DT_F16, DT_BF16, DT_I32, DT_U8, DT_N };
size_t dtype_bytes(enum dtype t);
const char *dtype_name(enum dtype t);             /* "f32", "f16", "bf16", "i32", "u8" */
int dtype_parse(const char *name, enum dtype *t); /* f32 | f16 | bf16; ERR_INPUT otherwise */

/* Row-major view of device memory; never owns. Unused trailing dimensions are 1. */
struct tensor {
    void *data;
    enum dtype dtype;
    int64_t n[4];
};

static inline int64_t tensor_count(const struct tensor *t)
{
    return t->n[0] * t->n[1] * t->n[2] * t->n[3];
}
static inline size_t tensor_bytes(const struct tensor *t)
{
    return (size_t)tensor_count(t) * dtype_bytes(t->dtype);
}
/* `count` slices of the first dimension from `at`; of a tensor without memory, without memory too. */
static inline struct tensor tensor_rows(const struct tensor *t, int64_t at, int64_t count)
{
    struct tensor r = *t;
    if (t->data)
        r.data = (char *)t->data + (size_t)(at * t->n[1] * t->n[2] * t->n[3]) * dtype_bytes(t->dtype);
    r.n[0] = count;
    return r;
}

/* Memory kinds, for the allocator's count and for the ledger of a sequence. */
enum mem_kind {
    MEM_WEIGHTS,
    MEM_CODES,     /* quantised keys and values */
    MEM_SCALES,    /* their scales and minima */
    MEM_WINDOW,    /* keys and values kept in the cache dtype */
    MEM_INDEX,     /* which tokens are kept, representatives */
    MEM_STATE,     /* recurrent state */
    MEM_WORKSPACE, /* activations and scratch of a forward pass */
    MEM_KIND_N
};
enum mem_place { PLACE_DEVICE, PLACE_HOST, PLACE_N };
const char *
mem_kind_name(enum mem_kind k); /* "codes", "scales", "window", "index", "state", "workspace", "weights" */
const char *mem_place_name(enum mem_place p); /* "device", "host" */

/* One weight matrix [n_out, n_in] in the form the device multiplies fastest. `packed` is device memory given
 * by the caller. */
struct weight {
    void *packed;
    int64_t n_out, n_in;
    enum dtype dtype; /* values are rounded to this dtype; products accumulate in f32 */
    size_t bytes;     /* of packed */
};

/* Rotary table: pairs (i, i + n_rot/2) of the first n_rot dimensions turn by pos * inv_freq[i]; cos and sin
 * are scaled by `mscale`. The angle is the float32 product of position and inv_freq, as in transformers. */
struct rope {
    int32_t n_rot;
    float mscale;
    const float *inv_freq; /* [n_rot/2], device */
};

/* dst <- rotate(src): src [T,h,d], row t at position pos + t (fixed >= 0: all rows at position `fixed`). dst
 * dtype may differ (rounded once); in place is allowed when equal. rope NULL: a plain converting copy. */
struct rope_args {
    struct tensor src, dst; /* [T,h,d] */
    const struct rope *rope;
    int64_t pos, fixed;
};

/* A run of cached keys or values, consecutive positions.
 * QUANT_NONE: data [n,Hk,d] of `dtype`.
 * QUANT_TOKEN: per token and head, groups of `group` channels: codes packed along channels, low bits first,
 * [n,Hk,d*bits/8] bytes; scale, min f16 [n,Hk,d/group]. QUANT_CHANNEL: per head and channel, groups of
 * `group` tokens: codes packed along tokens within a group, low bits first, [n/group,Hk,d,group*bits/8]
 * bytes; scale, min f16 [n/group,Hk,d]. n is a multiple of group. value = scale*code + min in f32 (KIVI);
 * with `f16_values` it is fp16(fp16(code*scale) + min) (FlexGen as the benchmark simulates it), with `inverse`
 * fp16(fp16(code/scale) + min) (FlexGen's own, whose scale is codes per unit; see quant_args). index != NULL
 * (QUANT_NONE only): row r of the run is data[index[r]] and its position is pos + index[r]. */
enum quant_layout { QUANT_NONE, QUANT_TOKEN, QUANT_CHANNEL };
struct kv_run {
    enum quant_layout layout;
    enum dtype dtype; /* QUANT_NONE: of data; codes: DT_F32 asks for float32 products, 16 bits allow others */
    int32_t bits, group;
    bool f16_values, inverse;
    const void *data;
    const uint16_t *scale, *min;
    const int32_t *index;
    int64_t n, pos; /* tokens; position of the first */
};

/* One set of keys under one mask rule. Key j (position pj) is visible to query row t (position q_pos + t) iff
 * dist_min <= (q_pos + t) - pj < dist_max. Sets of one call share one softmax; a key may be in two sets (it
 * then counts twice). */
#define ATTEND_RUNS 4
#define ATTEND_FAR  INT64_C(0x3fffffffffffffff)
struct attend_set {
    struct tensor q;                              /* act [T,H,d], rotated as this set wants it */
    struct kv_run k[ATTEND_RUNS], v[ATTEND_RUNS]; /* oldest first; key runs and value runs hold the same
                                                     tokens, but may be cut at different places */
    int32_t n_k, n_v;
    int64_t dist_min, dist_max;
    const uint8_t *keep; /* [keep_rows,keep_ld], key j of the set (counted over the runs): 0 masks it for
                            head h, row h / (H/keep_rows); keep_rows is Hk or H. NULL: none is masked */
    int64_t keep_rows, keep_ld;
    float *attn_scores; /* [H,attn_scores_ld]: attn_scores[h,j] += the probability that the T rows give key j.
                           NULL: not wanted */
    int64_t attn_scores_ld;
};
/* out[t,h] = sum_j softmax_j(scale * q[t,h].k_j) v_j over the visible keys of all sets; head h reads kv head
 * h / (H/Hk). `out` does not depend on whether attention scores are wanted. Where `out` may use bf16 products
 * (CPUs: 16 rows or more, no f32 cache), attention scores use the same: a logit is then off by at most e =
 * scale * 2^-8 * sum_c |q_c k_c|, a probability by a factor of at most exp(2e) and 2e-4 of itself; otherwise
 * both are f32. Attention scores in fp16 of 8 rows or more are computed in plain loops. */
struct attend_args {
    struct attend_set set[2];
    int32_t n_set, n_kv_head;
    int64_t q_pos;
    float scale;
    bool f16_attn_scores; /* as fp16 tensors would give the scores, row by row: logit fp16(fp16(q.k) * scale),
                      softmax in f32, score = fp16(score + fp16(p)); in f32 otherwise */
    struct tensor out; /* act [T,H,d] */
};

/* The k largest of n scores, for each row r of `keep_rows`: a score is the mean over `group` neighbouring
 * rows of `score` (in the order of the rows, f32). Ties go to the lower index. The `tail` entries behind the
 * n are chosen as well (recent tokens). */
struct select_args {
    float *score; /* [rows*group,score_ld] */
    int64_t score_ld, rows, group, n, k, tail;
    int32_t *index; /* [rows,index_ld]: the k + tail chosen ones, rising; NULL */
    int64_t index_ld;
    uint8_t *keep; /* [rows,keep_ld]: 1 for the chosen among n + tail entries, 0 for the others; NULL */
    int64_t keep_ld;
    bool zero_rest; /* scores of those not chosen become 0 */
    bool bar_rest;  /* they become -infinity: never to be chosen again while enough others are there */
};

/* dst[m,h] = src[index[row,m],h/(H/Hk)]: picks rows of src [N,Hk,d] into dst [M,H,d] of the same dtype, H a
 * multiple of Hk. `rows` lists, head h reads list h / (H/rows). dst may be src if every list rises and H is
 * Hk. Calls together do not touch each other's rows. */
struct gather_args {
    struct tensor src, dst;
    const int32_t *index; /* [rows,index_ld] */
    int64_t rows, index_ld;
};

/* Groups of src values -> codes, scale, min (asymmetric, fp16 op by op; arXiv 2407.01527 code, KIVI
 * quant/new_pack.py): mn, mx of the group; s = fp16(fp16(mx-mn)/(2^bits-1)); c =
 * round_half_even(clamp(fp16(fp16(x-mn)/s), 0, 2^bits-1)). Where s underflows to 0, that is 0 for x == mn
 * (0/0) and 2^bits-1 for x > mn (infinity, clamped), as upstream. With `inverse` (FlexLLMGen compression.py on
 * a GPU): s = fp16(fp16(1/fp16(mx-mn))*(2^bits-1)), infinite for small ranges; c =
 * round_half_even(clamp(fp16(fp16(x-mn)*s), 0, 2^bits-1)), 0 for 0*infinity. src [n,Hk,d] (rounded to fp16
 * first), layouts as in struct kv_run. */
struct quant_args {
    enum quant_layout layout; /* QUANT_TOKEN or QUANT_CHANNEL */
    int32_t bits, group;
    struct tensor src;
    void *codes;
    uint16_t *scale, *min;
    bool inverse;
};

/* out[i] = the next out[i].n[1]*n[2] columns of rmsnorm(x) w^T + bias: one product whose columns go apart. */
struct project_args {
    struct tensor x;        /* act [T,D] */
    const float *norm;      /* [D], used as in rmsnorm */
    float eps, w_add;       /* likewise */
    const struct weight *w; /* [sum of the columns,D] */
    const float *bias;      /* [columns] or NULL */
    struct tensor out[3];   /* act [T,columns] or [T,h,d] */
    int n_out;
    struct tensor h, wide; /* act [T,D], [T,columns]: room for what lies between, undefined afterwards */
};

/* The gated half of a block: x += down(silu(gate) * up), where gate and up are the halves of
 * gate_up(rmsnorm(x)). */
struct mlp_args {
    struct tensor x;                     /* act [T,D]: the residual stream */
    const float *norm;                   /* [D], used as in rmsnorm */
    float eps, w_add;                    /* likewise */
    const struct weight *gate_up, *down; /* [2F,D], [D,F] */
    struct tensor h, wide, mid;          /* act [T,D], [T,2F], [T,F]: room */
};

#include "kernels/mix.h" /* struct conv_args and the other recurrent ones */

/* What the engine wants to know of one row of logits. */
struct pick_args {
    struct tensor logits; /* f32 [T,V] */
    int32_t n_top;        /* K */
    int32_t *best;        /* host [T]: index of the maximum, lowest index on ties */
    int32_t *top_id;      /* host [T,K] by falling logit (lower id first on ties); NULL when K = 0 */
    float *top_logit;     /* host [T,K] */
    float *logsumexp;     /* host [T] */
    uint8_t *finite;      /* host [T]: 0 if any logit is NaN or infinite */
};

struct ops;  /* the backend; also the device handle */
struct comm; /* comm.h */

struct ops_options {
    int threads;     /* 0: all CPU cores this process may use */
    const char *isa; /* CPU: "auto" (AMX too), "avx512", "avx2", "portable": the widest that may be used. CUDA:
                        "wgmma" asks for the warpgroup kernels of compute capability 9.0, "serial" for kernels
                        that begin only when the one ahead has ended; else it is ignored */
    int device;      /* CUDA: ordinal among the visible GPUs, counted around when there are fewer */
    enum dtype act;  /* wished activation dtype; CPUs always use f32 */
    bool wait;       /* CUDA: wait after every kernel, so that a fault names its kernel (slow) */
};

struct ops {
    const char *name;    /* "ref", "cpu", "cuda" */
    char device[96];     /* CPU or GPU, for the results file */
    char gpu[48];        /* what tells one GPU from all others (its UUID); "" for CPUs */
    char isa[32];        /* instruction set in use */
    char driver[64];     /* what drives the GPU; "" for CPUs */
    char libraries[128]; /* versions of the libraries behind it */
    int threads;
    enum dtype act;
    bool plain_weights; /* packed weights are their rows as they are: parts of them may be copied into place */
    bool on_host;       /* its memory is this process's own: `copy` is done on return, and so is every call */
    int64_t chunk; /* rows of a prefill chunk that it likes, a multiple of 512; 0: 512, put by ops_open */
    void *impl;

    void (*close)(struct ops *o);
    /* Memory is counted by kind and place; alloc returns NULL when there is none (never aborts), zero-filled.
     */
    void *(*alloc)(struct ops *o, size_t bytes, enum mem_kind kind, enum mem_place place);
    void (*free)(struct ops *o, void *p);
    size_t (*used)(const struct ops *o, enum mem_kind kind, enum mem_place place);
    size_t (*peak)(struct ops *o,
                   bool reset);           /* highest device total (without weights) since the last reset */
    size_t (*limit)(const struct ops *o); /* device bytes that may be planned with; CPUs: what the machine and the
                                             job's control groups had left when the backend was opened */
    void (*trim)(struct ops *o);          /* gives back its own buffers, which grow as needed. NULL: none */
    void (*copy)(struct ops *o, void *dst, const void *src,
                 size_t bytes); /* any direction; ordered with kernels. Host memory of alloc's is done when
                                   sync returns, other host memory on return */
    void (*copy_rows)(struct ops *o, void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                      size_t width, int64_t rows); /* `width` bytes of each row, rows a pitch apart */
    int (*sync)(struct ops *o); /* waits; returns and clears the latched error */

    /* Products. pack_bytes is 0 if the dtype is not supported; dtype of `src` is any float dtype, rows
     * [n_out,n_in]. With bf16 weights x is rounded to bf16 first; with f16 weights it is kept in f32 on CPUs.
     */
    size_t (*pack_bytes)(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype);
    void (*pack)(struct ops *o, struct weight *w,
                 const struct tensor *src); /* fills w->packed, whose other members are set */
    void (*matmul)(struct ops *o, struct tensor out, struct tensor x, const struct weight *w,
                   const float *bias);
    /* out [T,n_out] = x [T,n_in] w^T + bias [n_out] or NULL; out act or f32 */

    void (*embed)(struct ops *o, struct tensor out, const struct tensor *table, const int32_t *ids,
                  float scale);
    /* out [T,D] = scale * table[ids[t]]; ids on the host; table [V,D] of any float dtype */
    void (*rmsnorm)(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps,
                    float w_add);
    /* out [T,D] = x / sqrt(mean(x^2) + eps) * (w + w_add) */
    void (*add)(struct ops *o, struct tensor x, struct tensor y); /* x += y */
    void (*swiglu)(struct ops *o, struct tensor out, struct tensor gate_up);
    /* out [T,F] = silu(gate_up[:, :F]) * gate_up[:, F:2F] */
    /* Several of the above in one; a backend may leave them NULL, and ops_open fills in ops_project and so
     * on. */
    void (*project)(struct ops *o, const struct project_args *a);
    void (*matmul_add)(struct ops *o, struct tensor x, struct tensor y, const struct weight *w, const float *bias,
                       struct tensor h); /* x [T,n_out] += y [T,n_in] w^T + bias; h like x: room */
    void (*mlp)(struct ops *o, const struct mlp_args *a);
    void (*rope)(struct ops *o, const struct rope_args *a, int n);
    void (*attend)(struct ops *o, const struct attend_args *a, int n); /* n sequences in one launch */
    void (*quant)(struct ops *o, const struct quant_args *a, int n);
    void (*select)(struct ops *o, const struct select_args *a, int n);
    void (*gather)(struct ops *o, const struct gather_args *a, int n);
    void (*mean)(struct ops *o, struct tensor out, struct tensor x);
    /* out f32 [H,d] = mean over t of x [T,H,d], of any float dtype, in the order of t */
    void (*dots)(struct ops *o, float *out, struct tensor rows, const float *x);
    /* out[n] = rows[n] . x: rows [N,D] of any float dtype, x [D] */
    void (*norms)(struct ops *o, float *out, int64_t ld, struct tensor x, float factor);
    /* out[h,t] (rows ld apart) = factor * sqrt(sum_c x[t,h,c]^2) as norm_rounded (score.h): x [T,H,d], any float */
    void (*pick)(struct ops *o, const struct pick_args *a);
    void (*layernorm)(struct ops *o, struct tensor out, struct tensor x, const float *w, const float *b,
                      float eps);
    /* out [T,D] = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * w + b; in place is allowed */
    void (*gelu)(struct ops *o, struct tensor out, struct tensor x);
    /* out [T,F] = x * (1 + erf(x / sqrt(2))) / 2; in place is allowed */
    /* Recurrent layers (mix.h); n sequences in one launch, each with a state of its own. */
    void (*conv)(struct ops *o, const struct conv_args *a, int n);
    void (*scan)(struct ops *o, const struct scan_args *a, int n);
    void (*ssd)(struct ops *o, const struct ssd_args *a, int n);
    void (*wkv)(struct ops *o, const struct wkv_args *a, int n);
    void (*lru)(struct ops *o, const struct lru_args *a, int n);
    void (*shift)(struct ops *o, const struct shift_args *a, int n);
    void (*gate)(struct ops *o, const struct gate_args *a);
    void (*group_norm)(struct ops *o, const struct group_norm_args *a);
    void (*softcap)(struct ops *o, struct tensor x, float cap); /* x f32 <- cap * tanh(x / cap) */
    int (*join)(struct ops *o, struct comm *c);
    /* Collective over a group of ranks (comm.h): from now on c->broadcast goes from device to device.
     * ERR_DEVICE with one line where that cannot be; NULL: this backend knows no such way */
};

/* Opens a backend by name ("ref", "cpu", "auto"); "cuda" needs the module libkvs_cuda.so. ERR_INPUT for
 * unknown names and where there is no such module or GPU, ERR_DEVICE if it cannot start. */
int ops_open(struct ops **o, const char *name, const struct ops_options *opt);
void ops_close(struct ops *o);
/* Another activation dtype (those of a model to come): backends that always use f32 stay as they are. Nothing
 * that was sized by the old one may be alive. */
void ops_set_act(struct ops *o, enum dtype act);
/* The same by the backend's own rmsnorm, matmul, copy_rows, swiglu and add. */
void ops_project(struct ops *o, const struct project_args *a);
void ops_matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w, const float *bias,
                    struct tensor h);
void ops_mlp(struct ops *o, const struct mlp_args *a);
/* For tests: the nth alloc from now on (1: the next) returns NULL, once; 0 takes it back. */
void ops_fail_alloc(struct ops *o, int64_t nth);
const char *const *ops_names(void); /* NULL-terminated */
/* Threads for `asked` ones: 0 means all CPU cores that this process may use, by its affinity and by the time
 * that its control groups are given (base/cgroup.h). */
int ops_threads(int asked);

#endif
