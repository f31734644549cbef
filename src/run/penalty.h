/* Tokens that an answer has already, chosen less readily (model.h: struct model_penalty). Internal to
 * src/run. */
#ifndef KVS_RUN_PENALTY_H
#define KVS_RUN_PENALTY_H

#include "run/run.h"

struct penalty {
    struct model_penalty rule;
    struct penalty_seen {
        int32_t id;
        double count;
    } * seen; /* [n_seen]: the answer's tokens, each once */
    int n_seen, cap_seen;
};

static inline bool penalty_acts(const struct penalty *p)
{
    return p->rule.presence != 0 || p->rule.frequency != 0;
}
/* The first maximum of a row of logits once the penalties are taken off; the row is a host copy, which this
 * changes. */
int32_t penalty_choose(const struct penalty *p, float *row, int64_t n_vocab);
/* Counts a token of the answer. tok NULL: every token counts. */
int penalty_note(struct penalty *p, const struct tok *tok, int32_t id);
void penalty_free(struct penalty *p);

#endif
