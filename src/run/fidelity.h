/* How far a setting's next-token distributions are from those of the full cache, along the full cache's own
 * greedy answer: both are asked at the same positions behind the same tokens. Internal to src/run. */
#ifndef KVS_RUN_FIDELITY_H
#define KVS_RUN_FIDELITY_H

#include "run/engine.h"

/* The full cache's answer to one example with its logits. */
struct fidelity_reference {
    int32_t example;
    int32_t *token; /* [n] */
    float *row;     /* [max_new,V], host memory of the device's backend; NULL until the first row */
    int n;
};

/* Makes the engine note every row of logits of slots whose `user` is a reference; none where there is no
 * memory for them. */
void fidelity_listen(struct engine *e);
/* Makes the engine compare: a slot whose `user` is a struct fidelity_rows gets one row per token. */
void fidelity_compare(struct engine *e);
void fidelity_off(struct engine *e);

/* Rows of one forced slot. */
struct fidelity_rows {
    const struct fidelity_reference *ref;
    struct record_fidelity *row; /* [ref->n], owned */
    int n;
};

/* Of one position: p from `full`, q from `other` (f32 logits [V]); kl in nats, sum p log(p/q). */
struct record_fidelity fidelity_row(const float *full, const float *other, int64_t n_vocab, int32_t gold,
                                    int32_t step);
void fidelity_free(struct fidelity_reference *ref, struct ops *ops);

#endif
