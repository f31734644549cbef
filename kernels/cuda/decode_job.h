/* What decode.cu works on: a sequence's keys and values as pieces, from one end of a run of keys or values to
 * the next. Made on the host, read on the GPU. */
#ifndef KVS_KERNELS_CUDA_DECODE_JOB_H
#define KVS_KERNELS_CUDA_DECODE_JOB_H

#include "kernels/cuda/attend.h"

#define DECODE_KEYS  16 /* of a block: what one product takes */
#define DECODE_GROUP 32 /* of groups that are read whole (decode_group.h) */

/* How keys or values lie: 16-bit values, or codes (struct kv_run) of 2 or 4 bits. */
enum decode_form { DENSE, TOKEN2, TOKEN4, CHANNEL2, CHANNEL4 };
enum decode_kind { KIND_PLAIN, KIND_HALF, KIND_INVERSE }; /* of a code's value: dequant() */
struct decode_side {
    const void *data; /* row 0 */
    const uint16_t *scale, *min;
    const int32_t *index; /* DENSE: row r is data[index[r]]; NULL */
    enum decode_form form;
    enum decode_kind kind;
    int32_t shift; /* log2 of the group's length */
};
/* Keys of one run of keys and one of values. */
struct alignas(16) decode_piece {
    struct decode_side k, v;
    int32_t n, pos; /* keys; position of the first one (of data[0] where there is an index) */
    int32_t skip; /* row of the first key in k: CHANNEL begins with a whole group, all others with the key */
    bool groups;  /* lies as decode_group.h takes it */
};
/* A set of keys; distances in 32 bits: those beyond any position are cut. */
struct decode_set {
    const void *q;
    enum dtype q_dtype;
    int32_t from, to; /* its pieces */
    const uint8_t *keep;
    int64_t keep_ld;
    int32_t n; /* keys */
    int32_t dist_min, dist_max, per_keep;
};
struct alignas(16) decode_job {
    struct decode_set set[2];
    int32_t Hk, d, n_set, T, g, q_pos, n_split, split;
    float slope;         /* scale * log2(e) */
    float *sums, *stats; /* [n_split, Hk, rows, d] and [.., 2]: reference and total */
    void *out;
    enum dtype out_dtype;
};

static inline int64_t decode_row_count(const struct attend_args *a)
{
    return a->out.n[0] * (a->out.n[1] / a->n_kv_head);
}
/* The job of one sequence, without its parts (sums, stats); its pieces are added to `piece` behind the *n
 * that are there. */
struct decode_job decode_job_of(const struct attend_args *a, struct decode_piece *piece, int32_t *n);

#endif
