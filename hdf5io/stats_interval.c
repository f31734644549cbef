#include "hdf5io/stats_interval.h"

#include "hdf5io/stats.h"

#include <math.h>

const char *interval_name(enum interval_kind kind)
{
    static const char *const name[] = {"none",    "wilson", "tango", "bootstrap-t", "wilson-conservative",
                                       "combined"};
    return name[kind];
}

bool interval_conservative(const struct interval *i)
{
    return i->kind == INTERVAL_CONSERVATIVE || i->kind == INTERVAL_COMBINED;
}

void interval_wilson(double p, double n, double *lo, double *hi)
{
    const double z2 = STATS_Z95 * STATS_Z95, middle = (p + z2 / (2 * n)) / (1 + z2 / n);
    const double half = STATS_Z95 * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n);
    *lo = p <= 0 ? 0 : fmax(0, middle - half);
    *hi = p >= 1 ? 1 : fmin(1, middle + half);
}

/* The score statistic of a supposed difference d. Its variance takes the second side's lone successes where
 * they are most likely under d: the positive root of a quadratic (Tango's equation 8). Falls as d grows. */
static double tango_score(double up, double down, double n, double d)
{
    const double b = -up - down + (2 * n - up + down) * d, c = -down * d * (1 - d);
    const double q = (sqrt(fmax(0, b * b - 8 * n * c)) - b) / (4 * n);
    const double above = up - down - n * d, var = n * (2 * q + d * (1 - d));
    if (var > 0)
        return above / sqrt(var);
    return above > 0 ? INFINITY : above < 0 ? -INFINITY : 0;
}

/* Where the score falls through `level`, between lo and hi. */
static double tango_root(double up, double down, double n, double lo, double hi, double level)
{
    for (int i = 0; i < 100 && hi - lo > 1e-15; i++) {
        const double middle = 0.5 * (lo + hi);
        if (tango_score(up, down, n, middle) > level)
            lo = middle;
        else
            hi = middle;
    }
    return 0.5 * (lo + hi);
}

void interval_tango(int64_t up, int64_t down, int64_t n, double *lo, double *hi)
{
    const double u = (double)up, w = (double)down, m = (double)n, d = (u - w) / m;
    *lo = down == n ? -1 : tango_root(u, w, m, -1, d, STATS_Z95);
    *hi = up == n ? 1 : tango_root(u, w, m, d, 1, -STATS_Z95);
}
