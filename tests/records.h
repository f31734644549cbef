/* Random records for the tests of the flat form and of results files. */
#ifndef KVS_TESTS_RECORDS_H
#define KVS_TESTS_RECORDS_H

#include "run/record.h"

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *g);              /* splitmix64 */
uint64_t rng_below(struct rng *g, uint64_t n); /* 0 <= value < n; 0 for n = 0 */

/* Fills *r with something legal in every field; `unit` makes the id. Owned. Vocabulary 96, K = 8. */
void records_random(struct record *r, struct rng *g, uint64_t unit);
/* The name of the first field that differs, or "". Without `logits` those arrays are not looked at. */
const char *records_difference(const struct record *a, const struct record *b, bool logits);

#endif
