/* Coverage of the 95 % intervals by simulation, through the program's own functions.
 * Usage: stats_coverage SIMULATIONS. A cell draws that many samples from a distribution whose mean is known
 * and counts the intervals that hold it. Demanded of 20,000: at least 92.5 % in every cell and 94 % on
 * average, no width of zero, and for 0/1 data a median width of at most 1.3 times Wilson's. Fewer simulations
 * are allowed three of their standard errors. */
#include "base/mem.h"
#include "hdf5io/stats.h"
#include "hdf5io/stats_paired.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct cell {
    bool paired, graded;
    int n;
    double p;
};
struct outcome {
    double coverage, below, above; /* shares: holds the mean, lies below it, lies above it */
    double width, wilson;          /* medians */
    double resampled;              /* share of bootstrap-t */
    int n_zero;                    /* width not above zero, or no interval */
};

static double uniform(uint64_t *rng)
{
    return (double)(stats_random(rng) >> 11) * 0x1p-53;
}

/* One score: 1 with probability p, else 0, or for graded ones anything in between. */
static double score(const struct cell *c, double p, uint64_t *rng)
{
    if (uniform(rng) < p)
        return 1;
    return c->graded ? uniform(rng) : 0;
}

static double mean_score(const struct cell *c, double p)
{
    return c->graded ? p + 0.5 * (1 - p) : p;
}

/* A compressor changes one answer in five, and the changed ones are right less often. */
enum { CHANGED_PERCENT = 20 };
static const double worse = 0.1;

static double draw(const struct cell *c, uint64_t *rng)
{
    const double full = score(c, c->p, rng);
    if (!c->paired)
        return full;
    return uniform(rng) < CHANGED_PERCENT / 100.0 ? score(c, c->p - worse, rng) - full : 0;
}

static double truth(const struct cell *c)
{
    if (!c->paired)
        return mean_score(c, c->p);
    return CHANGED_PERCENT / 100.0 * (mean_score(c, c->p - worse) - mean_score(c, c->p));
}

static double wilson_width(const struct cell *c, double mean)
{
    double lo, hi;
    interval_wilson(c->paired ? 0.5 * (mean + 1) : mean, c->n, &lo, &hi);
    return (c->paired ? 2 : 1) * (hi - lo);
}

static struct outcome simulate(const struct cell *c, int n_sim, struct resampler *r)
{
    double *value = mem_alloc((size_t)c->n, sizeof *value), *width = mem_alloc((size_t)n_sim, sizeof *width);
    double *wilson = mem_alloc((size_t)n_sim, sizeof *wilson);
    const double mean = truth(c);
    uint64_t rng = (uint64_t)(1000 * c->p) + (uint64_t)c->n * 4096 + c->paired * 2u + c->graded;
    struct outcome o = {0};
    for (int k = 0; k < n_sim; k++) {
        struct sample s, *one = &s;
        for (int i = 0; i < c->n; i++)
            value[i] = draw(c, &rng);
        sample_init(&s, c->paired ? SAMPLE_DIFFERENCES : SAMPLE_SCORES, value, c->n);
        const struct interval in = sample_interval(&one, 1, r);
        o.below += in.hi < mean;
        o.above += in.lo > mean;
        o.n_zero += !(in.hi > in.lo);
        o.resampled += in.kind == INTERVAL_BOOTSTRAP_T;
        width[k] = in.hi - in.lo;
        wilson[k] = wilson_width(c, s.mean);
        sample_free(&s);
    }
    o.below /= n_sim, o.above /= n_sim, o.resampled /= n_sim;
    o.coverage = 1 - o.below - o.above;
    o.width = stats_median(width, n_sim);
    o.wilson = stats_median(wilson, n_sim);
    free(value);
    free(width);
    free(wilson);
    return o;
}

/* What a cell does not fulfil, or NULL. */
static const char *fault(const struct cell *c, const struct outcome *o, double least)
{
    if (o->coverage < least)
        return "coverage";
    if (o->n_zero)
        return "width 0";
    return !c->graded && o->width > 1.3 * o->wilson ? "wide" : NULL;
}

static bool run_cell(const struct cell *c, int n_sim, struct resampler *r, double *coverage)
{
    const struct outcome o = simulate(c, n_sim, r);
    const char *why = fault(c, &o, 0.925 - 3 * sqrt(0.925 * 0.075 / n_sim) * (n_sim < 20000));
    printf("%-6s %-6s %4d %5.2f  %7.2f %7.2f %7.2f  %7.4f %7.2f %9.0f  %s\n", c->paired ? "paired" : "single",
           c->graded ? "graded" : "0/1", c->n, c->p, 100 * o.coverage, 100 * o.below, 100 * o.above, o.width,
           o.width / o.wilson, 100 * o.resampled, why ? why : "");
    fflush(stdout);
    *coverage += o.coverage;
    return !why;
}

int main(int argc, char **argv)
{
    static const int size[] = {15, 50, 200};
    static const double right[] = {0.5, 0.9, 0.97};
    const int n_sim = argc == 2 ? atoi(argv[1]) : 0;
    struct resampler r = {0};
    double coverage = 0;
    int bad = 0, n_cell = 0;
    if (n_sim < 100) {
        fprintf(stderr, "usage: stats_coverage SIMULATIONS (at least 100)\n");
        return 2;
    }
    printf("%d simulations a cell\ndata   scores    n     p coverage   below   above    width /Wilson "
           "resampled\n",
           n_sim);
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++, n_cell++) {
                const struct cell c = {.paired = k / 2, .graded = k % 2, .n = size[i], .p = right[j]};
                bad += !run_cell(&c, n_sim, &r, &coverage);
            }
    resampler_free(&r);
    coverage /= n_cell;
    const bool low = coverage < 0.94 - 3 * sqrt(0.94 * 0.06 / n_sim / n_cell) * (n_sim < 20000);
    printf("average %.2f %%: %s; %d of %d cells not as demanded\n", 100 * coverage, low ? "too low" : "good",
           bad, n_cell);
    return bad || low;
}
