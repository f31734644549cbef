/* Keys and values of chosen tokens: what evicting methods share. Each KV head keeps tokens of its own, so row
 * r of two heads may be two tokens; rows rise with the tokens' positions in every head. Keys are stored
 * rotated at their true positions. */
#ifndef KVS_KV_KEPT_H
#define KVS_KV_KEPT_H

#include "kv/method.h"

enum { KEPT_K, KEPT_V, KEPT_TOKEN, KEPT_LIST, KEPT_N_MEM };

struct kept {
    struct kv_mem mem[KEPT_N_MEM];
    struct tensor k, v;  /* [capacity,Hk,d], cache dtype */
    int32_t *token;      /* [Hk,capacity]: of the first n_known rows; the others are the newest tokens */
    int32_t *list;       /* [Hk,capacity]: rows that were chosen last, rising */
    int64_t capacity, n; /* rows; rows in use */
    int64_t n_known;
};

int kept_open(const struct kv_cache *c, struct kept *s, int64_t capacity); /* ERR_NOMEM */
void kept_close(const struct kv_cache *c, struct kept *s); /* accepts a zeroed or half-opened one */
void kept_count(const struct kept *s, struct kv_ledger *l);

/* Fills `list` (and `keep` if not NULL) of a choice: the k best of the first n scores, then `tail` more. The
 * score of a KV head is the mean over its rows [H,ld] (or [Hk,ld]) of `score`. */
struct select_args kept_choice(const struct kv_cache *c, const struct kept *s, float *score, int64_t ld,
                               int64_t rows, int64_t n, int64_t k, int64_t tail);
/* The first m chosen rows of a prompt become the rows of an empty s. */
void kept_take(const struct kv_cache *c, struct kept *s, const struct kv_dense *prompt, int64_t m);
/* Drops all but the m chosen rows, in place. c->n counts the tokens up to the newest row. */
int kept_compact(const struct kv_cache *c, struct kept *s, int64_t m);
/* dst[row,i] = src[row,list[i]] for `rows` rows of scores (a multiple of Hk), i < m; in place is allowed. n
 * is what a row of src holds. */
void kept_scores(const struct kv_cache *c, const struct kept *s, float *dst, int64_t dst_ld, float *src,
                 int64_t src_ld, int64_t n, int64_t rows, int64_t m);
/* Room for the T rows of r behind the others: their rotations, and the sets' runs of all rows. The new rows'
 * run has their true position, the others stand before. */
void kept_append(const struct kv_cache *c, struct kept *s, const struct kv_rows *r, struct rope_args rope[2],
                 struct attend_set *set);
/* Of the rows that `keep` [Hk,capacity] shows (all if NULL; equally many in every head): their tokens, array
 * "kept" i32 [Hk,m], and their scores, array "score" f32 [rows,m] (score [rows,capacity], or NULL). */
int kept_dump(const struct kv_cache *c, const struct kept *s, const uint8_t *keep, const float *score,
              int64_t rows, struct kv_dump *out, int *n);

#endif
