#include "hdf5io/stats_sample.h"

#include "base/mem.h"
#include "hdf5io/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Samples of more values are drawn without a table of counts, which would grow with them. */
enum { COUNTED = 1024, SEED = 42 };
/* Samples of equal size share one table of counts. So that their resamples are independent of each other all
 * the same, a resample of several takes those of its samples that lie so far apart. */
enum { APART = 331 };

struct resample_counts {
    int64_t n;
    uint8_t *count; /* [n, STATS_RESAMPLES]; that 1 of at most 1,024 is drawn 256 times does not happen */
};

void resampler_free(struct resampler *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->of[i].count);
    free(r->of);
    *r = (struct resampler){0};
}

/* A place 0 … n - 1 (Lemire 2019; the bias of n / 2^32 is left in). */
static int64_t draw(uint64_t *rng, int64_t n)
{
    return (int64_t)((stats_random(rng) >> 32) * (uint64_t)n >> 32);
}

static const uint8_t *counts(struct resampler *r, int64_t n)
{
    for (int i = 0; i < r->n; i++)
        if (r->of[i].n == n)
            return r->of[i].count;
    struct resample_counts *c = MEM_PUSH(r->of, r->n, r->cap);
    *c = (struct resample_counts){n, mem_alloc((size_t)n * STATS_RESAMPLES, 1)};
    uint64_t rng = SEED;
    for (int k = 0; k < STATS_RESAMPLES; k++)
        for (int64_t i = 0; i < n; i++)
            c->count[draw(&rng, n) * STATS_RESAMPLES + k]++;
    return c->count;
}

void sample_init(struct sample *s, enum sample_kind kind, const double *value, int64_t n)
{
    *s = (struct sample){.kind = kind, .value = value, .n = n, .whole = true, .var = NAN};
    double sum = 0, squares = 0;
    bool equal = true;
    for (int64_t i = 0; i < n; i++) {
        const double v = value[i];
        sum += v;
        s->up += v == 1;
        s->down += v == -1;
        s->whole = s->whole && (v == 0 || v == 1 || v == -1);
        equal = equal && v == value[0];
    }
    s->mean = n ? equal ? value[0] : sum / (double)n : NAN;
    for (int64_t i = 0; i < n; i++)
        squares += (value[i] - s->mean) * (value[i] - s->mean);
    if (n > 1)
        s->var = equal ? 0 : squares / (double)(n - 1) / (double)n;
}

void sample_free(struct sample *s)
{
    free(s->mean_of);
    free(s->var_of);
    *s = (struct sample){0};
}

/* What most values are, if it is 0 or 1: taken as origin it makes them vanish from every sum. */
static double origin(const struct sample *s)
{
    int64_t zeros = 0;
    for (int64_t i = 0; i < s->n; i++)
        zeros += s->value[i] == 0;
    return zeros == 0 && s->up == 0 ? s->mean : s->up > zeros ? 1 : 0;
}

/* Adds four values, each as often as it was drawn, to the sums and sums of squares of all resamples. */
static void add_four(double *restrict sum, double *restrict squares, const uint8_t *const c[4],
                     const double x[4])
{
    const uint8_t *restrict c0 = c[0], *restrict c1 = c[1], *restrict c2 = c[2], *restrict c3 = c[3];
    const double x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    const double y0 = x0 * x0, y1 = x1 * x1, y2 = x2 * x2, y3 = x3 * x3;
    for (int k = 0; k < STATS_RESAMPLES; k++) {
        const double d0 = c0[k], d1 = c1[k], d2 = c2[k], d3 = c3[k];
        sum[k] += (d0 * x0 + d1 * x1) + (d2 * x2 + d3 * x3);
        squares[k] += (d0 * y0 + d1 * y1) + (d2 * y2 + d3 * y3);
    }
}

static void sums_counted(const struct sample *s, const uint8_t *count, double zero, double *sum,
                         double *squares)
{
    const uint8_t *c[4];
    double x[4];
    int m = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (s->value[i] == zero)
            continue;
        c[m] = count + i * STATS_RESAMPLES;
        x[m++] = s->value[i] - zero;
        if (m == 4)
            add_four(sum, squares, c, x), m = 0;
    }
    for (int k = m; m && k < 4; k++) {
        c[k] = count;
        x[k] = 0;
    }
    if (m)
        add_four(sum, squares, c, x);
}

static void sums_drawn(const struct sample *s, double zero, double *sum, double *squares)
{
    uint64_t rng = SEED;
    for (int k = 0; k < STATS_RESAMPLES; k++)
        for (int64_t i = 0; i < s->n; i++) {
            const double x = s->value[draw(&rng, s->n)] - zero;
            sum[k] += x;
            squares[k] += x * x;
        }
}

static void resample(struct sample *s, struct resampler *r)
{
    if (s->mean_of)
        return;
    const double n = (double)s->n, zero = origin(s);
    s->mean_of = mem_alloc(STATS_RESAMPLES, sizeof *s->mean_of);
    s->var_of = mem_alloc(STATS_RESAMPLES, sizeof *s->var_of);
    if (s->n <= COUNTED)
        sums_counted(s, counts(r, s->n), zero, s->mean_of, s->var_of);
    else
        sums_drawn(s, zero, s->mean_of, s->var_of);
    for (int k = 0; k < STATS_RESAMPLES; k++) {
        const double sum = s->mean_of[k], squares = s->var_of[k], spread = squares - sum * sum / n;
        const bool any = spread > 1e-11 * squares; /* less is rounding: one value was drawn throughout */
        s->mean_of[k] = zero + sum / n;
        s->var_of[k] = any ? spread / (n - 1) / n : 0;
        s->n_spread += any;
    }
}

static bool can_resample(struct sample *s, struct resampler *r)
{
    if (s->n < 2 || s->var <= 0)
        return false;
    resample(s, r);
    return s->n_spread >= STATS_RESAMPLES * 95 / 100;
}

/* Whatever was computed, an interval holds its mean and keeps to what the mean can be. */
static void bound(struct interval *i, enum sample_kind kind)
{
    i->lo = fmin(i->lo, i->mean);
    i->hi = fmax(i->hi, i->mean);
    if (kind != SAMPLE_UNBOUNDED) {
        i->lo = fmax(i->lo, kind == SAMPLE_SCORES ? 0 : -1);
        i->hi = fmin(i->hi, 1);
    }
}

/* What one difference of 1 and one of -1 more would add to the variance of a mean of differences, as Bonett
 * and Price (2012) add a pair each way to those of 0/1 scores. Most examples score the same under both
 * settings: the few that do not can all miss a rare large loss, and bootstrap-t alone then covers 85 to 92 %
 * (seen with tests/stats_coverage.c). Of several samples: n is that of one whose mean would be as certain. */
static double unseen_pair(struct sample *const *s, int n)
{
    double share = 0;
    for (int g = 0; g < n; g++)
        share += 1 / (double)s[g]->n;
    const double whole = (double)n * n / share + 2;
    return s[0]->kind == SAMPLE_DIFFERENCES ? 2 / (whole * whole) : 0;
}

/* False where too few resamples have a spread. */
static bool bootstrap_t(struct sample *const *s, int n, struct resampler *r, struct interval *out)
{
    double var = 0, *t = NULL;
    for (int g = 0; g < n; g++) {
        if (!can_resample(s[g], r))
            return false;
        var += s[g]->var;
    }
    t = mem_alloc(STATS_RESAMPLES, sizeof *t);
    int64_t m = 0;
    for (int k = 0; k < STATS_RESAMPLES; k++) {
        double above = 0, var_k = 0;
        for (int g = 0; g < n; g++) {
            const int at = (k + g * APART) % STATS_RESAMPLES;
            above += s[g]->mean_of[at] - s[g]->mean;
            var_k += s[g]->var_of[at];
        }
        if (var_k > 0)
            t[m++] = above / sqrt(var_k);
    }
    const int64_t low = (m + 1) / 40 - 1; /* the 2.5 % point, and as far from the other end */
    const double se = sqrt(var / ((double)n * n) + unseen_pair(s, n)), t_low = stats_select(t, m, low),
                 t_high = stats_select(t, m, m - 1 - low);
    free(t);
    out->kind = INTERVAL_BOOTSTRAP_T;
    out->lo = out->mean - t_high * se;
    out->hi = out->mean - t_low * se;
    bound(out, s[0]->kind);
    return out->hi > out->lo;
}

/* Wilson's with the mean as proportion. */
static void conservative(const struct sample *s, struct interval *out)
{
    if (s->kind == SAMPLE_UNBOUNDED)
        return;
    const bool scores = s->kind == SAMPLE_SCORES;
    out->kind = INTERVAL_CONSERVATIVE;
    interval_wilson(scores ? s->mean : 0.5 * (s->mean + 1), (double)s->n, &out->lo, &out->hi);
    if (!scores) {
        out->lo = 2 * out->lo - 1;
        out->hi = 2 * out->hi - 1;
    }
    bound(out, s->kind);
}

static struct interval interval_of_one(struct sample *s, struct resampler *r)
{
    struct interval i = {s->mean, NAN, NAN, s->n, INTERVAL_NONE};
    if (s->whole && s->down == 0 && s->kind == SAMPLE_SCORES) {
        i.kind = INTERVAL_WILSON;
        interval_wilson(s->mean, (double)s->n, &i.lo, &i.hi);
    } else if (s->whole && s->kind == SAMPLE_DIFFERENCES) {
        i.kind = INTERVAL_TANGO;
        interval_tango(s->up, s->down, s->n, &i.lo, &i.hi);
    } else if (!bootstrap_t(&s, 1, r, &i)) {
        i = (struct interval){s->mean, NAN, NAN, s->n, INTERVAL_NONE};
        conservative(s, &i);
    }
    return i;
}

/* The samples are independent: distances from mean to end add up as standard errors do. */
static void combine(struct sample *const *s, int n, struct resampler *r, struct interval *out)
{
    double below = 0, above = 0;
    for (int g = 0; g < n; g++) {
        const struct interval i = interval_of_one(s[g], r);
        below += (i.mean - i.lo) * (i.mean - i.lo);
        above += (i.hi - i.mean) * (i.hi - i.mean);
    }
    out->lo = out->mean - sqrt(below) / n;
    out->hi = out->mean + sqrt(above) / n;
    out->kind = isnan(out->lo) || isnan(out->hi) ? INTERVAL_NONE : INTERVAL_COMBINED;
    bound(out, s[0]->kind);
}

struct interval sample_interval(struct sample *const *s, int n, struct resampler *r)
{
    struct interval i = {NAN, NAN, NAN, 0, INTERVAL_NONE};
    double sum = 0;
    for (int g = 0; g < n; g++) {
        sum += s[g]->mean;
        i.n += s[g]->n;
    }
    i.mean = n ? sum / n : NAN;
    if (i.n < 2)
        return i;
    if (n == 1)
        return interval_of_one(s[0], r);
    if (!bootstrap_t(s, n, r, &i))
        combine(s, n, r, &i);
    return i;
}
