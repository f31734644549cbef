#include "run/penalty.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* float32 less a float32, as the package rwkv has it (utils.py: PIPELINE.generate). */
int32_t penalty_choose(const struct penalty *p, float *row, int64_t n_vocab)
{
    for (int i = 0; i < p->n_seen; i++)
        row[p->seen[i].id] -= (float)(p->rule.presence + p->seen[i].count * p->rule.frequency);
    int32_t best = 0;
    for (int64_t i = 1; i < n_vocab; i++)
        if (row[i] > row[best])
            best = (int32_t)i;
    return best;
}

/* What the token adds to its count: nothing if its text is part of the rule's, which an empty text is not. */
static int increment(const struct penalty *p, const struct tok *tok, int32_t id, double *add)
{
    char *text;
    *add = 1;
    if (!tok || !*p->rule.uncounted)
        return 0;
    TRY(tok_decode(tok, &id, 1, false, &text, NULL));
    if (*text && strstr(p->rule.uncounted, text))
        *add = 0;
    free(text);
    return 0;
}

int penalty_note(struct penalty *p, const struct tok *tok, int32_t id)
{
    double add;
    int at = 0;
    TRY(increment(p, tok, id, &add));
    for (int i = 0; i < p->n_seen; i++)
        p->seen[i].count *= p->rule.decay;
    while (at < p->n_seen && p->seen[at].id != id)
        at++;
    if (at == p->n_seen)
        *MEM_PUSH(p->seen, p->n_seen, p->cap_seen) = (struct penalty_seen){.id = id};
    p->seen[at].count += add;
    return 0;
}

void penalty_free(struct penalty *p)
{
    free(p->seen);
    *p = (struct penalty){0};
}
