/* Intervals, tests and averages against scipy's, statsmodels', Python's and NumPy's (fixtures:
 * oracle/stats_fixtures.py), and what they promise where nothing can be compared. */
#include "base/mem.h"
#include "hdf5io/means.h"
#include "hdf5io/score_set.h"
#include "hdf5io/stats.h"
#include "hdf5io/stats_paired.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static json_t *fixtures;

static int load(void **state)
{
    (void)state;
    json_error_t e;
    fixtures = json_load_file("fixtures/stats/stats.json", 0, &e);
    return fixtures ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(fixtures);
    return 0;
}

static const json_t *cases(const char *name)
{
    const json_t *list = json_object_get(fixtures, name);
    assert_true(json_array_size(list) > 0);
    return list;
}

static double real(const json_t *c, const char *key)
{
    assert_true(json_is_number(json_object_get(c, key)));
    return json_number_value(json_object_get(c, key));
}

static int64_t whole(const json_t *c, const char *key)
{
    return json_integer_value(json_object_get(c, key));
}

static double *reals(const json_t *list, int64_t *n)
{
    double *v = mem_alloc(json_array_size(list), sizeof *v);
    const json_t *x;
    size_t i;
    json_array_foreach(list, i, x) v[i] = json_number_value(x);
    *n = (int64_t)json_array_size(list);
    return v;
}

static void near(double got, double want, double error)
{
    if (!(fabs(got - want) <= error))
        fail_msg("%.12g instead of %.12g +- %g", got, want, error);
}

static void test_wilson(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    json_array_foreach(cases("wilson"), i, c)
    {
        const double n = real(c, "n");
        double lo, hi;
        interval_wilson(real(c, "k") / n, n, &lo, &hi);
        near(lo, real(c, "lo"), 1e-12);
        near(hi, real(c, "hi"), 1e-12);
    }
}

static void test_tango(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    json_array_foreach(cases("tango"), i, c)
    {
        double lo, hi, back_lo, back_hi;
        interval_tango(whole(c, "up"), whole(c, "down"), whole(c, "n"), &lo, &hi);
        near(lo, real(c, "lo"), 1e-6); /* the oracle maximises numerically */
        near(hi, real(c, "hi"), 1e-6);
        interval_tango(whole(c, "down"), whole(c, "up"), whole(c, "n"), &back_lo, &back_hi);
        near(back_lo, -hi, 1e-12);
        near(back_hi, -lo, 1e-12);
    }
}

static void test_mcnemar(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    json_array_foreach(cases("mcnemar"), i, c)
        near(stats_mcnemar(whole(c, "up"), whole(c, "down")), real(c, "p"), 1e-10);
    near(stats_mcnemar(0, 0), 1, 0);
}

static void test_holm(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    json_array_foreach(cases("holm"), i, c)
    {
        int64_t n, m;
        double *p = reals(json_object_get(c, "p"), &n), *want = reals(json_object_get(c, "adjusted"), &m);
        double *got = mem_alloc((size_t)n + 1, sizeof *got);
        stats_holm(p, (int)n, got);
        for (int64_t k = 0; k < n; k++)
            near(got[k], want[k], 1e-15);
        p = mem_grow(p, (size_t)n + 1, sizeof *p);
        p[n] = NAN; /* is no member of the family */
        stats_holm(p, (int)n + 1, got);
        near(got[0], want[0], 1e-15);
        assert_true(isnan(got[n]));
        free(p);
        free(want);
        free(got);
    }
}

static void test_flips(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    int n_exact = 0;
    json_array_foreach(cases("flips"), i, c)
    {
        enum test_kind kind;
        int64_t n;
        double *x = reals(json_object_get(c, "x"), &n);
        const bool exact = json_is_true(json_object_get(c, "exact"));
        const double p = real(c, "p");
        near(stats_flips(x, n, &kind), p, exact ? 1e-12 : 4 * sqrt(p * (1 - p) / STATS_FLIPS) + 1e-4);
        assert_int_equal(kind, exact ? TEST_FLIPS_EXACT : TEST_FLIPS);
        n_exact += exact;
        free(x);
    }
    assert_in_range(n_exact, 2, i - 1);
}

/* All 2^20 flips one by one. */
static double flips_brute(const double *x, int n)
{
    double observed = 0;
    int64_t hits = 0;
    for (int i = 0; i < n; i++)
        observed += x[i];
    for (uint32_t k = 0; k < 1u << n; k++) {
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += k >> i & 1 ? x[i] : -x[i];
        hits += fabs(sum) >= fabs(observed) - 1e-9;
    }
    return (double)hits / (double)(1u << n);
}

static void test_flips_drawn(void **state)
{
    (void)state;
    enum { N = 20 };
    double x[N];
    uint64_t rng = 5;
    for (int round = 0; round < 4; round++) {
        enum test_kind kind;
        for (int i = 0; i < N; i++)
            x[i] = (double)(stats_random(&rng) % 100) / 50 - 0.9 + 0.2 * round;
        const double p = flips_brute(x, N);
        near(stats_flips(x, N, &kind), p, 4 * sqrt(p * (1 - p) / STATS_FLIPS) + 2.0 / STATS_FLIPS);
        assert_int_equal(kind, TEST_FLIPS);
    }
}

static void test_bootstrap_t(void **state)
{
    (void)state;
    const json_t *c, *stratum;
    size_t i, g;
    struct resampler r = {0};
    json_array_foreach(cases("bootstrap_t"), i, c)
    {
        const json_t *strata = json_object_get(c, "strata");
        const bool pairs = json_is_true(json_object_get(c, "pairs"));
        struct sample s[4], *part[4];
        double *value[4];
        const int n = (int)json_array_size(strata);
        json_array_foreach(strata, g, stratum)
        {
            int64_t m;
            value[g] = reals(stratum, &m);
            part[g] = &s[g];
            sample_init(part[g], pairs ? SAMPLE_DIFFERENCES : SAMPLE_SCORES, value[g], m);
        }
        const struct interval in = sample_interval(part, n, &r);
        assert_int_equal(in.kind, INTERVAL_BOOTSTRAP_T);
        near(in.mean, real(c, "mean"), 1e-12);
        /* 5,000 resamples against 200,000: an end's own error is near a tenth of a standard error */
        near(in.lo, real(c, "lo"), 0.25 * real(c, "se"));
        near(in.hi, real(c, "hi"), 0.25 * real(c, "se"));
        for (int k = 0; k < n; k++) {
            sample_free(&s[k]);
            free(value[k]);
        }
    }
    resampler_free(&r);
}

static struct interval of_one(enum sample_kind kind, const double *v, int64_t n)
{
    struct sample s, *one = &s;
    struct resampler r = {0};
    sample_init(&s, kind, v, n);
    const struct interval i = sample_interval(&one, 1, &r);
    sample_free(&s);
    resampler_free(&r);
    return i;
}

/* Which interval is used where. */
static void test_kinds(void **state)
{
    (void)state;
    double equal[20], one_off[20], binary[20], up[20] = {0}, two[2] = {0.3, 0.7};
    for (int i = 0; i < 20; i++) {
        equal[i] = 0.5;
        one_off[i] = i ? 0.5 : 0.25;
        binary[i] = i % 3 == 0;
        up[i] = i < 4 ? 1 : 0;
    }
    struct interval in = of_one(SAMPLE_SCORES, equal, 20);
    double lo, hi;
    interval_wilson(0.5, 20, &lo, &hi);
    assert_int_equal(in.kind, INTERVAL_CONSERVATIVE);
    near(in.lo, lo, 1e-15);
    near(in.hi, hi, 1e-15);
    assert_true(interval_conservative(&in));
    assert_int_equal(of_one(SAMPLE_SCORES, one_off, 20).kind, INTERVAL_CONSERVATIVE); /* 64 % have a spread */
    assert_int_equal(of_one(SAMPLE_SCORES, binary, 20).kind, INTERVAL_WILSON);
    assert_int_equal(of_one(SAMPLE_SCORES, two, 2).kind, INTERVAL_CONSERVATIVE);
    in = of_one(SAMPLE_DIFFERENCES, up, 20);
    assert_int_equal(in.kind, INTERVAL_TANGO);
    in = of_one(SAMPLE_DIFFERENCES, one_off, 20); /* Wilson of (d + 1) / 2, stretched back */
    interval_wilson(0.5 * (in.mean + 1), 20, &lo, &hi);
    assert_int_equal(in.kind, INTERVAL_CONSERVATIVE);
    near(in.lo, 2 * lo - 1, 1e-15);
    near(in.hi, 2 * hi - 1, 1e-15);
    in = of_one(SAMPLE_SCORES, two, 1);
    assert_int_equal(in.kind, INTERVAL_NONE);
    assert_true(isnan(in.lo) && isnan(in.hi) && in.mean == 0.3);
    assert_int_equal(of_one(SAMPLE_UNBOUNDED, equal, 20).kind, INTERVAL_NONE);
    assert_int_equal(of_one(SAMPLE_SCORES, NULL, 0).n, 0);
}

/* Beyond the table of counts every value is drawn: the same numbers, but for rounding. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 3000 };
    double v[N], shifted[N];
    uint64_t rng = 9;
    for (int i = 0; i < N; i++) {
        v[i] = (double)(stats_random(&rng) % 1000) / 1000;
        shifted[i] = 0.5 * v[i] + 0.25;
    }
    const struct interval a = of_one(SAMPLE_SCORES, v, N), b = of_one(SAMPLE_SCORES, shifted, N);
    const double se = sqrt(1 / 12.0 / N);
    near(a.lo, a.mean - STATS_Z95 * se, 0.2 * se);
    near(a.hi, a.mean + STATS_Z95 * se, 0.2 * se);
    near(b.lo, 0.5 * a.lo + 0.25, 1e-9);
    near(b.hi, 0.5 * a.hi + 0.25, 1e-9);
    const struct interval small = of_one(SAMPLE_SCORES, v, 900), other = of_one(SAMPLE_SCORES, shifted, 900);
    near(other.lo, 0.5 * small.lo + 0.25, 1e-9);
}

/* Two tasks whose examples stand in the order of their scores, alike or the other way round: resamples of one
 * say nothing of those of the other, and the mean of both is as certain as sqrt(2) of one. */
static void test_in_order(void **state)
{
    (void)state;
    enum { N = 50 };
    double up[N], down[N];
    struct sample s[3], *same[2] = {&s[0], &s[1]}, *other[2] = {&s[0], &s[2]};
    struct resampler r = {0};
    for (int i = 0; i < N; i++)
        up[i] = down[N - 1 - i] = 0.02 * (i + 0.5);
    sample_init(&s[0], SAMPLE_SCORES, up, N);
    sample_init(&s[1], SAMPLE_SCORES, up, N);
    sample_init(&s[2], SAMPLE_SCORES, down, N);
    const struct interval one = of_one(SAMPLE_SCORES, up, N), a = sample_interval(same, 2, &r),
                          b = sample_interval(other, 2, &r);
    near(a.hi - a.lo, sqrt(0.5) * (one.hi - one.lo), 0.05 * (one.hi - one.lo));
    near(b.hi - b.lo, sqrt(0.5) * (one.hi - one.lo), 0.05 * (one.hi - one.lo));
    for (int i = 0; i < 3; i++)
        sample_free(&s[i]);
    resampler_free(&r);
}

/* A task without spread beside one with: the tasks' own intervals, combined. */
static void test_combined(void **state)
{
    (void)state;
    double ones[30], graded[40];
    uint64_t rng = 3;
    for (int i = 0; i < 30; i++)
        ones[i] = 1;
    for (int i = 0; i < 40; i++)
        graded[i] = (double)(stats_random(&rng) % 100) / 100;
    struct sample a, b, *part[2] = {&a, &b};
    struct resampler r = {0};
    sample_init(&a, SAMPLE_SCORES, ones, 30);
    sample_init(&b, SAMPLE_SCORES, graded, 40);
    const struct interval x = of_one(SAMPLE_SCORES, ones, 30), y = of_one(SAMPLE_SCORES, graded, 40),
                          in = sample_interval(part, 2, &r);
    assert_int_equal(in.kind, INTERVAL_COMBINED);
    near(in.lo, in.mean - 0.5 * hypot(1 - x.lo, y.mean - y.lo), 1e-12);
    near(in.hi, in.mean + 0.5 * (y.hi - y.mean), 1e-12);
    sample_free(&a);
    sample_free(&b);
    resampler_free(&r);
}

static void test_compare(void **state)
{
    (void)state;
    double d[50] = {0}, g[50] = {0};
    struct sample s, t, *part[2] = {&s, &t};
    struct resampler r = {0};
    for (int i = 0; i < 8; i++)
        d[i] = i ? -1 : 1;
    for (int i = 0; i < 30; i++)
        g[i] = (i % 7 - 5) / 10.0;
    sample_init(&s, SAMPLE_DIFFERENCES, d, 50);
    sample_init(&t, SAMPLE_DIFFERENCES, g, 50);
    struct comparison c = sample_compare(part, 1, &r);
    assert_int_equal(c.test, TEST_MCNEMAR);
    assert_int_equal(c.n_discordant, 8);
    near(c.p, stats_mcnemar(1, 7), 0);
    c = sample_compare(part + 1, 1, &r);
    assert_int_equal(c.test, TEST_FLIPS);
    assert_int_equal(c.effect.kind, INTERVAL_BOOTSTRAP_T);
    near(c.detectable, (STATS_Z95 + STATS_Z80) * sqrt(t.var), 1e-12);
    c = sample_compare(part, 2, &r);
    assert_int_equal(c.test, TEST_FLIPS);
    assert_int_equal(c.effect.n, 100);
    near(c.effect.mean, 0.5 * (s.mean + t.mean), 1e-15);
    assert_true(c.effect.lo < c.effect.mean && c.effect.mean < c.effect.hi);
    sample_free(&s);
    sample_init(&s, SAMPLE_DIFFERENCES, d, 1);
    c = sample_compare(part, 1, &r);
    assert_int_equal(c.test, TEST_NONE);
    assert_true(isnan(c.p) && isnan(c.effect.lo) && isnan(c.detectable));
    c = sample_compare(part, 0, &r);
    assert_true(isnan(c.effect.mean) && c.effect.n == 0);
    sample_free(&s);
    sample_free(&t);
    resampler_free(&r);
}

static double detectable_of(int64_t n, int64_t n_discordant)
{
    double *d = mem_alloc((size_t)n, sizeof *d);
    for (int64_t k = 0; k < n_discordant; k++)
        d[k] = k % 2 ? 1 : -1;
    struct sample s, *one = &s;
    struct resampler r = {0};
    sample_init(&s, SAMPLE_DIFFERENCES, d, n);
    const double v = sample_compare(&one, 1, &r).detectable;
    sample_free(&s);
    resampler_free(&r);
    free(d);
    return v;
}

static void test_detectable(void **state)
{
    (void)state;
    const json_t *c;
    size_t i;
    json_array_foreach(cases("detectable"), i, c)
    {
        near(detectable_of(whole(c, "n"), whole(c, "discordant")), real(c, "detectable"), 1e-9);
    }
    const double five = detectable_of(200, 5);
    assert_true(isnan(five)); /* all one way: p = 0.0625 */
    assert_true(detectable_of(200, 6) > 0);
}

static void test_select(void **state)
{
    (void)state;
    double v[101], even[] = {4, 1, 3, 2};
    for (int k = 0; k < 101; k += 10) {
        for (int i = 0; i < 101; i++)
            v[i] = (i * 37 % 101) / 2; /* with equal ones */
        near(stats_select(v, 101, k), k / 2, 0);
    }
    near(stats_median(even, 4), 2.5, 0);
    assert_true(isnan(stats_median(even, 0)));
}

static void check_groups(const struct means *m, const json_t *c, const struct means_sum *sum)
{
    const json_t *want = json_object_get(c, "groups");
    for (int g = 0; g < m->n_category; g++)
        if (strcmp(m->category[g].name, "needle") != 0)
            near(100 * means_of_group(m, &m->category[g], sum), real(want, m->category[g].name), 1e-9);
    assert_int_equal(m->n_category, json_object_size(want) + 1);
    assert_int_equal(m->n_whole, 2);
    assert_string_equal(m->whole[0].name, "longbench");
    assert_int_equal(m->whole[0].n_task, 15);
    near(100 * means_of_group(m, &m->whole[0], sum), real(c, "longbench"), 1e-9);
    assert_string_equal(m->whole[1].name, "needle");
    near(100 * means_of_group(m, &m->whole[1], sum), real(c, "needle"), 1e-9);
}

/* Paper mode: averages as the reference's scripts give them. */
static void test_means(void **state)
{
    (void)state;
    const json_t *c;
    size_t i, t, k;
    json_array_foreach(cases("means"), i, c)
    {
        const json_t *name = json_object_get(c, "category"), *score, *percent = json_object_get(c, "percent"),
                     *x;
        const char *category[32];
        struct means_sum sum[32] = {{0}};
        const int n = (int)json_array_size(name);
        json_array_foreach(json_object_get(c, "score"), t, score)
        {
            category[t] = json_string_value(json_array_get(name, t));
            json_array_foreach(score, k, x) means_add(&sum[t], json_number_value(x));
        }
        struct means m;
        means_init(&m, NULL, category, n, true);
        for (int j = 0; j < n; j++)
            near(100 * means_of_task(&m, j, &sum[j]), json_number_value(json_array_get(percent, (size_t)j)),
                 1e-9);
        check_groups(&m, c, sum);
        means_free(&m);
    }
}

/* Variants of one task are experiments of their own: never one mean. */
static void test_means_variants(void **state)
{
    (void)state;
    const char *const id[] = {"passkey", "recite", "passkey", "passkey"}, *const category[] = {
                                                                              "needle", "needle", "needle",
                                                                              "needle"};
    struct means m;
    means_init(&m, id, category, 4, false);
    assert_int_equal(m.n_whole, 3);
    assert_int_equal(m.whole[0].n_task, 2);
    assert_string_equal(m.whole[0].name, "needle");
    assert_string_equal(m.whole[1].name, "needle (variant 2)");
    assert_true(m.whole[2].n_task == 1 && m.whole[2].task[0] == 3);
    assert_int_equal(m.n_category, 3);
    means_free(&m);
}

/* Fair mode rounds nothing; tasks without any score are left out. */
static void test_means_fair(void **state)
{
    (void)state;
    const char *const category[] = {"needle", "code", "not_averaged", "code", "few_shots"};
    struct means_sum sum[5] = {{0}};
    struct means m;
    means_add(&sum[1], 0.25);
    means_add(&sum[1], 0.125);
    means_add(&sum[3], 1.0 / 3);
    means_add(&sum[2], 0.9);
    means_init(&m, NULL, category, 5, false);
    near(means_of_task(&m, 1, &sum[1]), 0.1875, 1e-15);
    assert_int_equal(m.n_whole, 2);
    near(means_of_group(&m, &m.whole[0], sum), 0.5 * (0.1875 + 1.0 / 3), 1e-15);
    assert_true(isnan(means_of_group(&m, &m.whole[1], sum)));
    assert_true(isnan(means_of_task(&m, 4, &sum[4])));
    means_free(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wilson),         cmocka_unit_test(test_tango),
        cmocka_unit_test(test_mcnemar),        cmocka_unit_test(test_holm),
        cmocka_unit_test(test_flips),          cmocka_unit_test(test_flips_drawn),
        cmocka_unit_test(test_bootstrap_t),    cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_many),           cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_combined),       cmocka_unit_test(test_compare),
        cmocka_unit_test(test_detectable),     cmocka_unit_test(test_select),
        cmocka_unit_test(test_means),          cmocka_unit_test(test_means_fair),
        cmocka_unit_test(test_means_variants), cmocka_unit_test(test_means_variants),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
