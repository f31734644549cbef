/* What the parts of check_ops share: counting, random numbers, guarded memory, comparing, random caches. */
#ifndef KVS_TESTS_CHECK_RIG_H
#define KVS_TESTS_CHECK_RIG_H

#include "kernels/half.h"
#include "kernels/host.h"
#include "kernels/ops.h"

extern int n_passed, n_failed;
extern const char *backend; /* what is being tested */
extern uint64_t rng_state; /* the seed */
extern uint64_t digest;    /* over everything a backend computed, to compare numbers of threads bit for bit */

void check(bool ok, const char *what, const char *detail);
void digest_add(const void *p, size_t n);

uint64_t rng(void);
int64_t rng_int(int64_t lo, int64_t hi); /* both included */
float rng_float(void);                   /* near a standard normal */

/* A backend on a GPU reads and writes pinned memory of the host, which the reference and the checks see too:
 * then all buffers come from it. NULL: every backend has its own. */
extern struct ops *rig_pinned;
/* Products round f32 activations to the weights' (the cache's) 16-bit dtype. */
extern bool rig_half;
void rig_wait(void); /* until that GPU is done */

/* Memory of a backend with bytes before and after that nobody may touch. */
struct buf {
    struct ops *o;
    unsigned char *base;
    size_t bytes;
};
void *buf_data(const struct buf *b);
struct buf buf_new(struct ops *o, size_t bytes);
struct buf buf_random(struct ops *o, enum dtype t, int64_t n);
void buf_free(struct buf *b); /* checks the bytes around it */
struct tensor view(const struct buf *b, enum dtype t, int64_t n0, int64_t n1, int64_t n2);

/* A matrix [n_out, n_in] as the backend keeps it, in t. */
struct weight rig_pack(struct ops *o, const struct tensor *src, enum dtype t);

/* |got - want| <= tol * (1 + |want|) everywhere. */
void compare(const char *what, const char *detail, enum dtype t, const struct buf *got,
             const struct buf *want, double tol);

/* Shapes of the runs of a set. */
enum cache {
    DENSE_F32,
    DENSE_F16,
    DENSE_BF16,
    KIVI2,
    KIVI4,
    TOKEN2,
    TOKEN4,
    TOKEN8,
    CHANNEL_V,
    INDEXED,
    CACHE_N
};
extern const char *const cache_names[CACHE_N];

struct owned_run {
    struct buf data, scale, min, index;
    bool has_scale, has_index;
};
struct owned_set {
    struct owned_run run[8];
    struct buf q;
    int n;
};

/* Queries [T,H,d] and keys at positions 0..n-1: a few dense ones, the body in its layout, a dense window;
 * values are cut elsewhere. The same memory serves both backends. */
void make_set(struct ops *ref, struct attend_set *s, struct owned_set *own, enum cache kind, int64_t T,
              int64_t n, int64_t H, int64_t Hk, int64_t d);
/* What attention of T rows over a cache may be off (compare): bf16 products for bf16 caches (CPUs: from 16
 * rows on), f16 products for those in f16 and their codes (CUDA; CPUs multiply them as f32). */
double attend_tol(enum cache kind, int64_t T);
void free_set(struct owned_set *own);

void test_matmul(struct ops *o, struct ops *ref);     /* check_product.c */
void test_fused(struct ops *o, struct ops *ref);      /* check_product.c */
void test_rows(struct ops *o, struct ops *ref);       /* check_rows.c */
void test_rope(struct ops *o, struct ops *ref);       /* check_rows.c */
void test_quant(struct ops *o, struct ops *ref);      /* check_rows.c */
void test_pick(struct ops *o, struct ops *ref);       /* check_rows.c */
void test_attend(struct ops *o, struct ops *ref);     /* check_attend.c */
void test_attend_few(struct ops *o, struct ops *ref); /* check_attend.c */
void test_attend_edges(struct ops *o);                /* check_attend.c */
void test_score(struct ops *o, struct ops *ref);      /* check_score.c */
void test_act(struct ops *o, struct ops *ref);        /* check_act.c */
void test_prompts(struct ops *o, struct ops *ref);    /* check_act.c: attention of prompts alone */
void test_mix(struct ops *o, struct ops *ref, enum dtype t); /* check_mix.c: t is the activations' dtype */
int rig_bench(struct ops *ref);                       /* check_speed.c */

#endif
