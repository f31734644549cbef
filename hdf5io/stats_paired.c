#include "hdf5io/stats_paired.h"

#include "base/mem.h"
#include "hdf5io/stats.h"

#include <math.h>
#include <stdlib.h>

const char *test_name(enum test_kind kind)
{
    static const char *const name[] = {"none", "mcnemar-exact", "sign-flip-exact", "sign-flip"};
    return name[kind];
}

double stats_mcnemar(int64_t up, int64_t down)
{
    const double n = (double)(up + down);
    const int64_t fewer = up < down ? up : down;
    double tail = 0;
    for (int64_t k = 0; k <= fewer; k++) {
        const double x = (double)k;
        tail += exp(lgamma(n + 1) - lgamma(x + 1) - lgamma(n - x + 1) - n * log(2));
    }
    return fmin(1, 2 * tail);
}

/* All 2^n flips in Gray's order: from one to the next a single sign changes. */
static double flips_exact(const double *x, int n, double level)
{
    double sum = 0, sign[STATS_FLIPS_EXACT];
    int64_t hits = 0;
    for (int i = 0; i < n; i++) {
        sign[i] = 1;
        sum += x[i];
    }
    for (uint32_t k = 1;; k++) {
        hits += fabs(sum) >= level;
        if (k >> n)
            break;
        const int i = __builtin_ctz(k);
        sum -= 2 * sign[i] * x[i];
        sign[i] = -sign[i];
    }
    return (double)hits / (double)(1u << n);
}

/* So many addends are flipped at once: their sums under all signs are a table that stays in the first cache.
 */
enum { TOGETHER = 11, SUMS = 1 << TOGETHER, PIECES = 64 / TOGETHER };

/* The sums of m addends; a set bit is a plus. */
static void sign_sums(const double *x, int m, double *sum)
{
    sum[0] = 0;
    for (int i = 0; i < m; i++)
        sum[0] -= x[i];
    for (int i = 0; i < m; i++)
        for (int k = 0; k < 1 << i; k++)
            sum[(1 << i) + k] = sum[k] + 2 * x[i];
}

static void add_flips(double *total, const double *sum, int m, uint64_t *rng)
{
    const uint64_t mask = (1u << m) - 1;
    for (int k = 0; k < STATS_FLIPS; k += PIECES) {
        uint64_t bits = stats_random(rng);
        for (int j = 0; j < PIECES; j++, bits >>= TOGETHER)
            total[k + j] += sum[bits & mask];
    }
}

static double flips_drawn(const double *x, int64_t n, double level)
{
    _Static_assert(STATS_FLIPS % PIECES == 0, "a draw's pieces end with the flips");
    double sum[SUMS], *total = mem_alloc(STATS_FLIPS, sizeof *total);
    uint64_t rng = 7;
    for (int64_t i = 0; i < n; i += TOGETHER) {
        const int m = n - i < TOGETHER ? (int)(n - i) : TOGETHER;
        sign_sums(x + i, m, sum);
        add_flips(total, sum, m, &rng);
    }
    int64_t hits = 1;
    for (int k = 0; k < STATS_FLIPS; k++)
        hits += fabs(total[k]) >= level;
    free(total);
    return (double)hits / (STATS_FLIPS + 1);
}

double stats_flips(const double *x, int64_t n, enum test_kind *kind)
{
    double sum = 0, size = 0, *moved = mem_alloc((size_t)n + 1, sizeof *moved);
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
        size += fabs(x[i]);
        if (x[i] != 0)
            moved[m++] = x[i];
    }
    const double level = fabs(sum) - 1e-10 * size; /* sums that differ by rounding alone are equal */
    *kind = m <= STATS_FLIPS_EXACT ? TEST_FLIPS_EXACT : TEST_FLIPS;
    const double p =
        m <= STATS_FLIPS_EXACT ? flips_exact(moved, (int)m, level) : flips_drawn(moved, m, level);
    free(moved);
    return p;
}

static double flip_all(struct sample *const *s, int n, int64_t n_value, enum test_kind *kind)
{
    double *x = mem_alloc((size_t)n_value, sizeof *x);
    int64_t m = 0;
    for (int g = 0; g < n; g++)
        for (int64_t i = 0; i < s[g]->n; i++)
            x[m++] = s[g]->value[i] / (double)s[g]->n;
    const double p = stats_flips(x, m, kind);
    free(x);
    return p;
}

/* Pairs of 0/1 scores (Connor 1987, Biometrics 43, 207-211), solved for the difference: the variance is the
 * discordant share under the null hypothesis, and less by the square of the difference under the other. */
static double detectable_pairs(double discordant, double n)
{
    double lo = 0, hi = (STATS_Z95 + STATS_Z80) * sqrt(discordant / n);
    for (int i = 0; i < 60; i++) {
        const double d = 0.5 * (lo + hi);
        const double need = STATS_Z95 * sqrt(discordant) + STATS_Z80 * sqrt(fmax(0, discordant - d * d));
        if (d * sqrt(n) < need)
            lo = d;
        else
            hi = d;
    }
    return 0.5 * (lo + hi);
}

/* Neither test can reach 5 % with fewer values that differ, even if all go one way: 2 * 0.5^5 = 0.0625. */
enum { LEAST_DISCORDANT = 6 };

static double detectable(struct sample *const *s, int n, int64_t n_discordant)
{
    double var = 0;
    if (n_discordant < LEAST_DISCORDANT)
        return NAN;
    if (n == 1 && s[0]->whole)
        return detectable_pairs((double)n_discordant / (double)s[0]->n, (double)s[0]->n);
    for (int g = 0; g < n; g++)
        var += s[g]->var;
    return var > 0 ? (STATS_Z95 + STATS_Z80) * sqrt(var) / n : NAN;
}

struct comparison sample_compare(struct sample *const *s, int n, struct resampler *r)
{
    struct comparison c = {
        .effect = sample_interval(s, n, r), .p = NAN, .p_holm = NAN, .detectable = NAN, .test = TEST_NONE};
    for (int g = 0; g < n; g++)
        for (int64_t i = 0; i < s[g]->n; i++)
            c.n_discordant += s[g]->value[i] != 0;
    if (c.effect.n < 2)
        return c;
    c.detectable = detectable(s, n, c.n_discordant);
    if (n == 1 && s[0]->whole) {
        c.test = TEST_MCNEMAR;
        c.p = stats_mcnemar(s[0]->up, s[0]->down);
    } else {
        c.p = flip_all(s, n, c.effect.n, &c.test);
    }
    return c;
}
