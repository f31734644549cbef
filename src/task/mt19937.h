/* The generator behind Python's `random`: MT19937, seeded by init_by_array (Matsumoto and Nishimura 1998,
 * 2002). */
#ifndef KVS_TASK_MT19937_H
#define KVS_TASK_MT19937_H

#include <stdint.h>

struct mt19937 {
    uint32_t state[624];
    int at;
};

/* As random.seed(seed) of Python 3 with a non-negative integer. */
void mt19937_seed(struct mt19937 *g, uint64_t seed);
uint32_t mt19937_next(struct mt19937 *g);
/* As random.choice over n things (1 <= n < 2^32): uniform in 0..n-1 by rejection of the top bits. */
uint32_t mt19937_below(struct mt19937 *g, uint32_t n);

#endif
