/* Inside of infllm: the state of a cache, and the life of one chunk of rows (infllm_chunk.c). */
#ifndef KVS_KV_INFLLM_H
#define KVS_KV_INFLLM_H

#include "kv/method.h"

/* Memory of a cache. INIT and SLOT hold K and V of first tokens and chosen blocks, FAR those of tokens that
 * will become a block, RING the rotated K and V of the window, STORE all raw K and V on the host. */
enum {
    M_INIT,
    M_RING = M_INIT + 2,
    M_FAR = M_RING + 2,
    M_SLOT = M_FAR + 2,
    M_STORE = M_SLOT + 2,
    M_REPR = M_STORE + 2,
    M_REPR_ID,
    M_SCORE,
    M_PICK,
    M_PICKED, /* workspace: inner products with the representatives */
    M_MEAN,   /* workspace: mean query or key */
    M_CHOSEN, /* workspace: keys behind a representative */
    M_QUERY,  /* workspace: query of a chunk of one row as the far set sees it */
    M_KEY,    /* workspace: its raw key in the cache dtype */
    M_N
};

struct infllm {
    struct kv_mem mem[M_N];
    int64_t n_init, n_local, topk;
    int64_t block, chunk, repr;
    bool far;                                                   /* some token will leave the window */
    bool scored;                                                /* blocks may be chosen between */
    struct tensor init[2], ring[2], rest[2], slot[2], store[2]; /* k, v: [n,Hk,d] */
    struct tensor repr_key;                                     /* [n_block,H,d] */
    int32_t *repr_id; /* [n_block,H,repr]: which tokens of the block */
    float *score;     /* [H,score_ld]: column j belongs to token score_at + j */
    int64_t score_at, score_ld;
    float *product;             /* [n_block] */
    int32_t *pick;              /* [topk] */
    struct tensor mean, chosen; /* f32 [H,d]; [repr,H,d] */
    struct tensor query, key;   /* act [1,H,d]; [1,Hk,d] */
    int32_t *want, *held;       /* host [topk]: the blocks chosen; the block in each slot */
    int64_t n_held;
    int64_t n_first, n_block, rem0; /* init tokens so far; blocks so far; first token in neither */
    int64_t n_rest;                 /* tokens from rem0 on that are in `rest` */
    int64_t attended;               /* keys the newest row attended to */
};

/* New rows go to the ring straight away where that costs no row of the chunk a key it still sees, else by way
 * of a stage. Chunks of one row use memory of the cache, longer ones (prompt only) memory that lives for the
 * chunk. */
struct infllm_chunk {
    struct kv_rows r;
    int64_t n_old;   /* ring tokens before the chunk */
    int64_t n_extra; /* tokens [rem0, end - n_local) */
    bool staged;
    struct kv_mem mem[6];  /* stage k, v; rest k, v; query; key */
    struct tensor to[2];   /* where the rows are written: [T,Hk,d] */
    struct tensor rest[2]; /* [n_extra,Hk,d] */
    struct tensor query;   /* act [T,H,d]: as the far set wants it */
    struct tensor key;     /* [T,Hk,d]: raw, cache dtype */
};

/* Room for the scores of n_new rows. */
void infllm_make_room(const struct kv_cache *c, int64_t n_new);
/* Memory of a chunk. ERR_NOMEM; what was taken is in p->mem. */
int infllm_plan(const struct kv_cache *c, const struct kv_rows *r, struct infllm_chunk *p);
/* Rotations from the raw rows, which those of infllm_near overwrite. Both return how many. */
int infllm_far(const struct kv_cache *c, const struct infllm_chunk *p, struct rope_args out[2]);
int infllm_near(const struct kv_cache *c, const struct infllm_chunk *p, struct rope_args out[3]);
/* Whether there are more blocks than slots. If so, infllm_rate makes *out choose by inner products of the
 * representatives with the mean query of the chunk, and the caller copies state->pick to state->want. */
bool infllm_chooses(const struct kv_cache *c, const struct infllm_chunk *p);
void infllm_rate(const struct kv_cache *c, const struct infllm_chunk *p, struct select_args *out);
/* Stores the raw rows and fetches what the far set needs; state->want is complete if there was a choice. */
void infllm_load(const struct kv_cache *c, const struct infllm_chunk *p);
void infllm_attend(const struct kv_cache *c, const struct infllm_chunk *p, struct attend_args *a);
/* Rows that left the window become first tokens until there are enough, then whole blocks. */
void infllm_commit(struct kv_cache *c, const struct infllm_chunk *p);

#endif
