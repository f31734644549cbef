/* One finished unit (setting x example) and its flat byte form, as it travels from a rank to the writer and
 * into the journal. */
#ifndef KVS_RUN_RECORD_H
#define KVS_RUN_RECORD_H

#include "base/str.h"
#include "kv/kv.h"

#include <stdint.h>

enum record_status { ST_OK, ST_OOM, ST_TOO_LONG, ST_NAN, ST_ERROR, ST_N };
enum record_stop { STOP_EOS, STOP_MAX_NEW, STOP_NEWLINE, STOP_N };
const char *record_status_name(int s); /* ok, oom, too_long, nan, error */
const char *record_stop_name(int s);   /* eos, max_new, newline */

struct record_metric {
    int32_t name; /* index into task_metric_names() */
    double value;
};

/* C types of the columns of record.def. */
#define RECORD_C_I32    int32_t
#define RECORD_C_U64    uint64_t
#define RECORD_C_F64    double
#define RECORD_C_STATUS int32_t /* enum record_status */
#define RECORD_C_STOP   int32_t /* enum record_stop */

/* Owned by whoever holds it; record_free releases all pointers. Arrays may be NULL when their count is 0. */
struct record {
    /* its scalars: record.def */
#define RECORD(type, name, role, since, units, what) RECORD_C_##type name;
#include "run/record.def"

    char *text;     /* [n_text], then a NUL: the answer, UTF-8, which may hold NULs; NULL if there is none */
    size_t n_text;  /* bytes */
    char *error;    /* one line, or NULL */
    int32_t *token; /* [n_new] */
    int32_t n_metric, n_budget, n_ledger;
    struct record_metric *metric;
    struct record_budget {
        int32_t name; /* enum kv_budget */
        double value;
    } * budget;
    struct record_ledger {
        int32_t kind, place; /* enum mem_kind, enum mem_place */
        uint64_t bytes;
    } * ledger;
    int32_t n_vocab; /* of `first` */
    uint16_t *first; /* f16 [n_first, n_vocab]: logits of the first answer token, or of all (option full);
                        NULL if not asked */
    int32_t n_first;
    int32_t n_top;        /* K; topk_id, topk_logit and logsumexp are there together or not at all */
    int32_t *topk_id;     /* [n_new, K] */
    uint16_t *topk_logit; /* f16 [n_new, K] */
    float *logsumexp;     /* [n_new] */
    int32_t n_fidelity;
    struct record_fidelity {
        int32_t step;
        float kl, top1, gold_logprob;
    } * fidelity;
};

/* The scalars of a record as a table. */
enum record_type { RECORD_I32, RECORD_U64, RECORD_F64, RECORD_STATUS, RECORD_STOP };
enum record_role { RECORD_KEY, RECORD_ROW, RECORD_ANSWER, RECORD_SIZE, RECORD_MEASURED, RECORD_ORIGIN };
struct record_column {
    const char *name;
    enum record_type type;
    enum record_role role;
    size_t offset, bytes; /* in struct record */
};
const struct record_column *record_column(int i); /* NULL past the end */
/* Whether a scalar of two records is the same bits; NaNs are all the same. */
bool record_same_column(const struct record_column *c, const struct record *x, const struct record *y);

void record_free(struct record *r);
/* Whether two answers are the same bytes; none is as an empty one. */
bool record_same_text(const struct record *x, const struct record *y);
/* Appends the flat little-endian form of n records; big logits are kept apart so that small parts can be
 * reread cheaply. */
void record_pack(const struct record *r, int n, struct str *small, struct str *big);
/* Reads what record_pack wrote (also several packs one after the other). `big` may be NULL: logits stay
 * absent, but n_vocab, n_first and n_top say what was packed. *r is owned (records, then the array itself by
 * free). ERR_INPUT on damage. */
int record_unpack(const void *small, size_t n_small, const void *big, size_t n_big, struct record **r,
                  int *n);

/* Bytes of the first packed record at `small`; 0 when there is none or its length does not fit in n_small. */
size_t record_small_bytes(const void *small, size_t n_small);
/* Bytes of this record in the big form, by its counts alone, and where its arrays begin in them (`at` may be
 * NULL). */
struct record_big {
    size_t topk_id, logsumexp, topk_logit, first;
};
size_t record_big_bytes(const struct record *r, struct record_big *at);

/* f32 to f16, round to nearest even. */
uint16_t half_from_float(float x);
float half_to_float(uint16_t h);

#endif
