/* Inside of the fast CPU backend. cpu.c and its neighbours cut work into items and spread them over threads;
 * the loops themselves exist once per instruction set (struct cpu_isa). Items depend on shapes only, never on
 * the number of threads. */
#ifndef KVS_KERNELS_CPU_CPU_H
#define KVS_KERNELS_CPU_CPU_H

#include "kernels/host.h"

#define CPU_MAX_D    1024 /* head dimension */
#define PANEL        64   /* columns of a weight panel */
#define PANEL_ROWS   6    /* most rows of one panel product */
#define BLOCK_KEYS   128  /* keys of one attention block */
#define SPLIT_KEYS   1024 /* keys of one decode item */
#define DECODE_ROWS  8    /* below so many rows, attention reads the cache once per row */
#define ATTEND_HEADS 8    /* most query heads of one block */
#define SCORE_ROWS   64   /* query rows of one step of the attention scores */

/* Rows of x times one panel of packed weights (layout: matmul.c). */
struct panel_args {
    float *y;       /* [m,ldy], n columns are written */
    const float *x; /* [m,ldx] */
    const void *w;  /* [k,PANEL], bf16 [k/2,PANEL,2] */
    enum dtype dtype;
    const float *bias; /* [n] or NULL */
    int64_t ldy, ldx, k;
    int m, n;
};

/* One query block against one kv head; rows are lanes: row r is token row_t[r] of the chunk. */
struct attend_block {
    int64_t R, d;         /* lanes, a multiple of 16; head dimension */
    float *q, *S, *o;     /* [d,R] scaled; scores, then weights [BLOCK_KEYS,R]; output [d,R] */
    float *m, *l;         /* [R] running maximum, sum */
    const int32_t *row_t; /* [R] */
    float *K, *V;         /* keys and values of one block [BLOCK_KEYS,d] */
    uint16_t *q16, *P16;  /* bf16 pairs: [d/2,R,2], [BLOCK_KEYS/2,R,2] */
    uint16_t *K16, *V16;  /* bf16 [BLOCK_KEYS,dp], transposed values [dp,BLOCK_KEYS]; dp: d up to 32 */
    int64_t dp;
    const int32_t *lo, *hi;            /* [keys] row_t that see the key: lo <= t < hi; NULL: all do */
    int64_t Tq;                        /* lanes of one head */
    const uint8_t *keep[ATTEND_HEADS]; /* per head [keys]: 0 masks the key; NULL: all are shown */
};

/* SCORE_ROWS query rows t0.. of one head against a block of BLOCK_KEYS keys: adds each key's share. */
struct attn_scores_block {
    int64_t d, t0;
    const void *q;          /* f32 [SCORE_ROWS,d]; bf16 [SCORE_ROWS,dp], scaled */
    const void *K;          /* f32 [d,BLOCK_KEYS]; bf16 pairs [BLOCK_KEYS/32,dp/2,32,2], dp: d up to 32 */
    const float *lse;       /* [SCORE_ROWS] */
    float *S;               /* [SCORE_ROWS,BLOCK_KEYS]; bf16 [SCORE_ROWS,32] */
    const int32_t *lo, *hi; /* [BLOCK_KEYS] rows that see the key: lo <= t < hi; NULL: all do */
    float *sum;             /* [BLOCK_KEYS], added to */
};

/* Scores or sums of g query heads over rows of one kv head. */
struct decode_args {
    const struct kv_run *run;
    int64_t at, n;     /* rows of the run */
    int32_t h, n_head; /* kv head */
    int64_t g, d;
    const float *q; /* [g,d] scaled */
    float *s;       /* [g,lds]: scores out, or weights in */
    int64_t lds;
    float *o;   /* [g,d], added to */
    float *tmp; /* [SPLIT_TMP,d] */
};
#define SPLIT_TMP 256

struct cpu_isa {
    const char *name;
    void (*to_f32)(float *dst, const void *src, enum dtype t, int64_t n);
    void (*from_f32)(void *dst, enum dtype t, const float *src, int64_t n);
    void (*scale)(float *x, float f, int64_t n);
    void (*round_bf16)(float *x, int64_t n); /* values rounded to bf16, kept in f32 */
    void (*rmsnorm)(float *y, const float *x, const float *w, int64_t D, float eps, float w_add);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, int64_t D, float eps);
    void (*add)(float *x, const float *y, int64_t n);
    void (*gelu)(float *y, const float *x, int64_t n);
    void (*swiglu)(float *y, const float *gate, const float *up, int64_t n);
    /* x [d] in place; cs [n_rot/2] cosines then [n_rot/2] sines */
    void (*rope)(float *x, const float *cs, int32_t n_rot);
    /* sum of exp(x - max); *max, and whether all are finite */
    double (*logits)(const float *x, int64_t n, float *max, bool *finite);
    void (*quant_rows)(const struct quant_args *a, int64_t row,
                       int64_t n); /* QUANT_TOKEN: rows; QUANT_CHANNEL: groups */
    void (*panel)(const struct panel_args *a);
    /* rows at..at+n of one head of a run as f32 [n,d] */
    void (*kv_rows)(float *dst, const struct kv_run *run, int64_t at, int64_t n, int32_t h, int32_t n_head,
                    int64_t d);
    void (*block)(struct attend_block *b, int64_t n);
    /* at most 16 rows */
    void (*block_out)(float *out, int64_t ld, const float *O, int64_t R, int64_t rows, int64_t d,
                      const float *sum);
    void (*scores)(const struct decode_args *a);
    void (*values)(const struct decode_args *a);
    float (*softmax)(float *s, int64_t n, float *sum); /* in place; returns the maximum */
    void (*attn_scores_rows)(const struct attn_scores_block *b);
    void (*attn_scores_add)(float *attn_scores, const float *w, float f, int64_t n, bool f16);
    float (*dot)(const void *x, enum dtype t, const float *y, int64_t n);
    void (*sum_rows)(float *sum, const void *x, enum dtype t, int64_t n); /* sum += x */
};
extern const struct cpu_isa isa_portable, isa_avx2, isa_avx512;

/* The same block with bf16 products and f32 sums, for caches in bf16: q16, K16, V16, P16 instead of q, K,
 * V and S. Scores are in units of log2, q16 is scaled for that. V16 is transposed. */
void cpu_block_bf16(struct attend_block *b, int64_t n); /* AVX-512 BF16 */
void cpu_block_amx(struct attend_block *b, int64_t n);  /* AMX; between cpu_amx_start and cpu_amx_stop */
bool cpu_amx_ok(void);                                  /* asks the kernel for the tile registers */
void cpu_amx_start(void);                               /* per thread */
void cpu_amx_stop(void);
void cpu_attn_scores16(const struct attn_scores_block *b,
                       void (*scores)(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m));
/* S [m,32] of m rows (whole 16) [m,dp] over 32 keys [dp/2,32,2] */
void cpu_scores_bf16(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m);
void cpu_scores_amx(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m);
void cpu_softmax16(struct attend_block *b, int64_t n, int64_t r, int64_t rows, float *S, uint16_t *P16,
                   int64_t ld);
void cpu_pack_q16(uint16_t *dst, int64_t dp, const float *q, int64_t ld, int64_t n, int64_t d, float scale);
/* In these, q16 is [R/32,dp/2,32,2] and O [R/32,dp,32]: groups of 32 query rows. From f32 or bf16 rows, ld
 * elements apart. */
void cpu_pack_keys16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d,
                     enum dtype t); /* 16 rows (n real) as cpu_pack_q16 packs them, from f32 or bf16 */
void cpu_pack_k16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d, enum dtype t);
void cpu_pack_v16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d, enum dtype t);
void cpu_amx_product(float *y, int64_t ldy, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t k,
                     int64_t m, int64_t n);
/* mid [m,F] (bf16, ldm apart) = silu(x w_gate^T) * (x w_up^T): x bf16 [m,k], w the packed panels of gate and
 * up one after the other; m a multiple of 32, F of 64, k of 32. room: [m + 32,32]. */
void cpu_amx_gated(uint16_t *mid, int64_t ldm, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t k,
                   int64_t m, int64_t F, float *room);
/* y [rows,n] = x w^T, columns c0.. of the packed w: x bf16 [rows up to a multiple of 32,k]; c0, n and k
 * multiples of
 * 32. block: room [32,32]. */
void cpu_amx_product_rows(float *y, int64_t ldy, int64_t rows, const uint16_t *x, int64_t ldx,
                          const uint16_t *w, int64_t k, int64_t c0, int64_t n, float *block);
/* y [rows,n] += x w^T: x bf16 [rows up to a multiple of 32,k]; n and k multiples of 32. */
void cpu_amx_add_product(float *y, int64_t ldy, int64_t rows, const uint16_t *x, int64_t ldx,
                         const uint16_t *w, int64_t k, int64_t n);
void cpu_to_bf16(uint16_t *dst, const float *src, int64_t n); /* AVX-512 BF16 */
#define CPU_HIDDEN (-1e30f) /* score of a key that a row does not see; maxima start above it */

struct rope_cache {
    float mscale;
    int32_t n_rot;
    float *inv_freq; /* [n_rot/2] copy */
    float *cs;       /* [ROPE_SLOTS,n_rot] cosines, sines */
    int64_t *pos;    /* [ROPE_SLOTS], -1: empty */
};
#define ROPE_SLOTS  4096
#define ROPE_CACHES 4

struct dn; /* oneDNN behind onednn.h */

struct cpu {
    struct host host; /* first: ops.c looks there */
    struct ops ops;
    const struct cpu_isa *isa;
    struct dn *dn; /* NULL: no library */
    bool bf16, amx;
    struct host_buf x;       /* activations of one product in the dtype of the weights */
    struct host_buf scratch; /* per thread, equal parts */
    struct host_buf items, partial;
    struct host_buf lse, attn_scores_q; /* of attention scores: rows' sums, queries */
    struct rope_cache rope[ROPE_CACHES];
    int rope_next;
};

/* Part of the scratch buffer for each thread; NULL (and a latched error) if there is no memory. */
char *cpu_scratch(struct cpu *c, size_t bytes_per_thread);

size_t cpu_pack_bytes(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype);
void cpu_pack(struct ops *o, struct weight *w, const struct tensor *src);
void cpu_matmul(struct ops *o, struct tensor out, struct tensor x, const struct weight *w, const float *bias);
void cpu_project(struct ops *o, const struct project_args *a);
void cpu_matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w,
                    const float *bias, struct tensor h);
void cpu_mlp(struct ops *o, const struct mlp_args *a);
void cpu_attend(struct ops *o, const struct attend_args *a, int n);
void cpu_select(struct ops *o, const struct select_args *a, int n);
void cpu_gather(struct ops *o, const struct gather_args *a, int n);
void cpu_mean(struct ops *o, struct tensor out, struct tensor x);
void cpu_dots(struct ops *o, float *out, struct tensor rows, const float *x);
void cpu_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor);
void cpu_rope(struct ops *o, const struct rope_args *a, int n);
void cpu_mix_table(struct ops *o); /* the entries of kernels/mix.h: mix.c */
void cpu_rope_free(struct cpu *c);

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t round_up(int64_t n, int64_t m)
{
    return (n + m - 1) / m * m;
}

#endif
