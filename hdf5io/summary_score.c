/* Scores, differences and fidelity of a summary, with their intervals. */
#include "base/mem.h"
#include "hdf5io/stats.h"
#include "hdf5io/summary.h"

#include <math.h>
#include <stdlib.h>

static void add_setting(struct summary *s, int i, struct resampler *r)
{
    const struct means *m = &s->means;
    struct score_set set;
    score_set_init(&set, m->n_task);
    for (int64_t row = 0; row < s->r->n_example; row++) { /* ordered by task */
        const struct record *x = summary_unit(s, i, row);
        if (means_counts(x))
            score_set_add(&set, s->r->example[row].task, x->score);
    }
    score_set_ready(&set, SAMPLE_SCORES);
    for (int t = 0; t < m->n_task; t++)
        s->cell[i * m->n_task + t].score = score_set_task(&set, m, t, r);
    for (int c = 0; c < m->n_category; c++)
        s->category[i * m->n_category + c] = score_set_group(&set, m, &m->category[c], r);
    for (int w = 0; w < m->n_whole; w++)
        s->whole[i * m->n_whole + w].score = score_set_group(&set, m, &m->whole[w], r);
    score_set_free(&set);
}

void summary_add_scores(struct summary *s, struct resampler *r)
{
    for (int i = 0; i < s->r->n_setting; i++)
        add_setting(s, i, r);
}

static void compare_setting(struct summary *s, int i, int full, struct resampler *r)
{
    const struct means *m = &s->means;
    struct score_set set;
    score_set_init(&set, m->n_task);
    for (int64_t row = 0; full >= 0 && full != i && row < s->r->n_example; row++) {
        const struct record *x = summary_unit(s, i, row), *y = summary_unit(s, full, row);
        if (means_counts(x) && means_counts(y))
            score_set_add(&set, s->r->example[row].task, x->score - y->score);
    }
    score_set_ready(&set, SAMPLE_DIFFERENCES);
    for (int w = 0; w < m->n_whole; w++)
        s->whole[i * m->n_whole + w].diff = score_set_compare(&set, m->whole[w].task, m->whole[w].n_task, r);
    score_set_free(&set);
}

/* P values of one column of the table of settings are adjusted together. */
static void adjust(struct summary *s, int whole)
{
    const int n = s->r->n_setting, step = s->means.n_whole;
    double *p = mem_alloc((size_t)n + 1, sizeof *p), *holm = mem_alloc((size_t)n + 1, sizeof *holm);
    for (int i = 0; i < n; i++)
        p[i] = s->whole[i * step + whole].diff.p;
    stats_holm(p, n, holm);
    for (int i = 0; i < n; i++)
        s->whole[i * step + whole].diff.p_holm = holm[i];
    free(p);
    free(holm);
}

void summary_add_diffs(struct summary *s, struct resampler *r)
{
    for (int i = 0; i < s->r->n_setting; i++)
        compare_setting(s, i, s->setting[i].full, r);
    for (int w = 0; w < s->means.n_whole; w++)
        adjust(s, w);
}

enum { F_KL, F_TOP1, F_GOLD, F_N };

/* Tokens of one example hang together, so examples are what is drawn. The mean over all tokens is a ratio of
 * sums over examples: it varies as the mean of these values does (Cochran 1977, 6.4). */
static struct interval ratio(double *sum, const double *n_token, int64_t n, enum sample_kind kind,
                             struct resampler *r)
{
    double all = 0, tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        all += sum[i];
        tokens += n_token[i];
    }
    const double mean = all / tokens;
    for (int64_t i = 0; i < n; i++)
        sum[i] = mean + (sum[i] - mean * n_token[i]) * (double)n / tokens;
    struct sample one, *s = &one;
    sample_init(&one, kind, sum, n);
    struct interval i = sample_interval(&s, 1, r);
    i.mean = mean;
    sample_free(&one);
    return i;
}

static void add_tokens(struct summary_setting *o, const struct record *x, double *const v[F_N])
{
    for (int f = 0; f < F_N; f++)
        v[f][0] = 0;
    for (int k = 0; k < x->n_fidelity; k++) {
        v[F_KL][0] += x->fidelity[k].kl;
        v[F_TOP1][0] += x->fidelity[k].top1;
        v[F_GOLD][0] += x->fidelity[k].gold_logprob;
        o->kl_max = fmax(o->kl_max, x->fidelity[k].kl);
    }
    o->n_fidelity += x->n_fidelity;
}

static void fidelity_of_setting(struct summary *s, int setting, double *value, struct resampler *r)
{
    struct summary_setting *o = &s->setting[setting];
    const int64_t cap = s->r->n_example;
    double *sum[F_N] = {value, value + cap, value + 2 * cap}, *n_token = value + 3 * cap;
    int64_t n = 0;
    o->kl_max = NAN;
    o->kl = o->top1 = o->gold_logprob = (struct interval){NAN, NAN, NAN, 0, INTERVAL_NONE};
    for (int64_t row = 0; row < cap; row++) {
        const struct record *x = summary_unit(s, setting, row);
        if (!x || !x->n_fidelity)
            continue;
        add_tokens(o, x, (double *[F_N]){sum[F_KL] + n, sum[F_TOP1] + n, sum[F_GOLD] + n});
        n_token[n++] = x->n_fidelity;
    }
    if (!n)
        return;
    o->kl = ratio(sum[F_KL], n_token, n, SAMPLE_UNBOUNDED, r);
    o->kl.lo = o->kl.lo < 0 ? 0 : o->kl.lo; /* a divergence is not less; NaN stays */
    o->top1 = ratio(sum[F_TOP1], n_token, n, SAMPLE_SCORES, r);
    o->gold_logprob = ratio(sum[F_GOLD], n_token, n, SAMPLE_UNBOUNDED, r);
}

void summary_add_fidelity(struct summary *s, struct resampler *r)
{
    double *value = mem_alloc((size_t)s->r->n_example * (F_N + 1) + 1, sizeof *value);
    for (int i = 0; i < s->r->n_setting; i++)
        fidelity_of_setting(s, i, value, r);
    free(value);
}
