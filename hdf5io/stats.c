#include "hdf5io/stats.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

enum { RESAMPLES = 2000 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double stats_median(double *value, int64_t n)
{
    if (n == 0)
        return NAN;
    qsort(value, (size_t)n, sizeof *value, by_value);
    return n % 2 ? value[n / 2] : 0.5 * (value[n / 2 - 1] + value[n / 2]);
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double mean_of_groups(const double *v, const int64_t *at, int n_group, uint64_t *rng)
{
    double total = 0;
    int used = 0;
    for (int g = 0; g < n_group; g++) {
        int64_t n = at[g + 1] - at[g];
        if (n == 0)
            continue;
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += v[at[g] + (rng ? (int64_t)(next(rng) % (uint64_t)n) : i)];
        total += sum / (double)n;
        used++;
    }
    return used ? total / used : NAN;
}

struct interval stats_mean(const double *value, const int64_t *at, int n_group)
{
    struct interval r = {mean_of_groups(value, at, n_group, NULL), NAN, NAN, at[n_group] - at[0]};
    if (r.n == 0)
        return r;
    double *sample = mem_alloc(RESAMPLES, sizeof *sample);
    uint64_t rng = 42;
    for (int i = 0; i < RESAMPLES; i++)
        sample[i] = mean_of_groups(value, at, n_group, &rng);
    qsort(sample, RESAMPLES, sizeof *sample, by_value);
    r.lo = sample[RESAMPLES / 40];
    r.hi = sample[RESAMPLES - 1 - RESAMPLES / 40];
    free(sample);
    return r;
}

struct interval stats_paired(const double *a, const double *b, const int64_t *at, int n_group)
{
    int64_t n = at[n_group];
    double *d = mem_alloc((size_t)n, sizeof *d);
    for (int64_t i = at[0]; i < n; i++)
        d[i] = a[i] - b[i];
    struct interval r = stats_mean(d, at, n_group);
    free(d);
    return r;
}
