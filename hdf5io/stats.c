#include "hdf5io/stats.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

uint64_t stats_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double stats_select(double *value, int64_t n, int64_t k)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        const double pivot = value[k];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (value[i] < pivot)
                i++;
            while (value[j] > pivot)
                j--;
            if (i <= j) {
                const double t = value[i];
                value[i++] = value[j];
                value[j--] = t;
            }
        }
        if (j < k)
            lo = i;
        if (k < i)
            hi = j;
    }
    return value[k];
}

double stats_median(double *value, int64_t n)
{
    if (n == 0)
        return NAN;
    const double upper = stats_select(value, n, n / 2);
    return n % 2 ? upper : 0.5 * (stats_select(value, n, n / 2 - 1) + upper);
}

struct ranked {
    double p;
    int at;
};

static int by_p(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->p < y->p ? -1 : x->p > y->p ? 1 : x->at - y->at;
}

void stats_holm(const double *p, int n, double *adjusted)
{
    struct ranked *r = mem_alloc((size_t)n + 1, sizeof *r);
    int m = 0;
    for (int i = 0; i < n; i++) {
        adjusted[i] = NAN;
        if (!isnan(p[i]))
            r[m++] = (struct ranked){p[i], i};
    }
    qsort(r, (size_t)m, sizeof *r, by_p);
    double above = 0; /* an adjusted value is never below that of a smaller p */
    for (int i = 0; i < m; i++) {
        above = fmax(above, fmin(1, (m - i) * r[i].p));
        adjusted[r[i].at] = above;
    }
    free(r);
}
