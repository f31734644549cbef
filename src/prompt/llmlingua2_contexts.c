/* LLMLingua-2's choice among several contexts: those whose words begin with the higher mean P(keep). */
#include "prompt/llmlingua2.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

const struct ll2_options ll2_defaults = {
    .rate = 0.5,
    .target_token = -1,
    .use_token_level_filter = true,
    .context_level_rate = 1,
    .target_context = -1,
    .context_level_target_token = -1,
};

int ll2_check(const struct ll2_options *o, int n)
{
    if (!(o->rate > 0 && o->rate <= 1))
        return err_set(ERR_INPUT, "rate %g: use a number above 0 and at most 1", o->rate);
    if (!(o->context_level_rate >= 0 && o->context_level_rate <= 1))
        return err_set(ERR_INPUT, "context_level_rate %g: use 0 to 1", o->context_level_rate);
    /* The package takes 0 for no target, or fails, as it chooses among contexts or not. */
    if (o->target_token == 0)
        return err_set(ERR_INPUT, "target_token 0: use at least 1, or a negative number for no target");
    for (int i = 0; i < o->n_force_context; i++)
        if (o->force_context_ids[i] < 0 || o->force_context_ids[i] >= n)
            return err_set(ERR_INPUT, "force_context_ids names context %d; there are %d, counted from 0",
                           o->force_context_ids[i], n);
    return 0;
}

double ll2_share(double target, double n)
{
    return target < n ? target / n : 1;
}

static double context_rate(const struct ll2_options *o, int n, int64_t n_tokens)
{
    double rate = o->context_level_rate, tokens = (double)o->context_level_target_token;
    if (o->target_context <= 0 && rate >= 1 && tokens <= 0) { /* nothing asked for */
        if (o->target_token >= 0)
            tokens = (double)o->target_token * (o->use_token_level_filter ? 2 : 1);
        else
            rate = o->use_token_level_filter ? (o->rate + 1) / 2 : o->rate;
    }
    if (o->target_context >= 0)
        rate = ll2_share((double)o->target_context, n);
    return tokens >= 0 ? ll2_share(tokens, (double)n_tokens) : rate;
}

void ll2_choose(const struct ll2_options *o, const float *score, int n, int64_t n_tokens, bool *kept)
{
    double *v = mem_alloc((size_t)n, sizeof *v);
    for (int i = 0; i < n; i++)
        v[i] = score[i];
    double th = ll2_percentile(v, n, (int)(100 * (1 - context_rate(o, n, n_tokens))), true);
    for (int i = 0; i < n; i++)
        kept[i] = score[i] >= th;
    for (int i = 0; i < o->n_force_context; i++)
        kept[o->force_context_ids[i]] = true;
    free(v);
}
