/* What the machine could do at best, measured once per process: every speed figure stands beside it. */
#ifndef KVS_RUN_LIMITS_H
#define KVS_RUN_LIMITS_H

#include "run/run.h"

struct run_limits {
    double read_rate; /* bytes/s that all threads read from memory together; on a GPU: that a copy inside its
                         memory reads and writes */
    double product_rate; /* flop/s of the model's own products at the rows of a chunk (GPUs: up to 8192) in
                            its dtype, by the product library alone */
};
/* Measured on the loaded model at the first call (about two seconds). Zeros where nothing could be measured.
 */
void runner_limits(struct runner *r, struct run_limits *l);
/* Measures once more and keeps the better figures: on a machine shared with others, best stands beside best
 * only if both had the same chances. */
void runner_limits_again(struct runner *r, struct run_limits *l);
/* flop/s of the model's own products at `rows` rows, by the product library alone (about a second). */
double limits_product_rate(struct runner *r, int64_t rows);
/* Flops of a prompt of n tokens: products, causal half of attention, one row of the head. */
double limits_prefill_flops(struct model *m, int64_t n);
/* Least seconds of one decode step of n_seq sequences whose caches take cache_bytes each (on the device: what
 * waits on the host is not read): weights and caches are read once. */
double limits_step_s(struct model *m, const struct run_limits *l, enum dtype dtype, int n_seq,
                     double cache_bytes);

#endif
