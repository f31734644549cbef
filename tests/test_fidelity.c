/* Distance of two rows of logits against numbers worked out by hand and with scipy.special. */
#include "run/fidelity.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6 * fmax(1, fabs(want))))
        fail_msg("%.9g instead of %.9g", got, want);
}

static void closed_forms(void **state)
{
    (void)state;
    /* p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): KL = 1/2 ln 2 + 1/4 ln(1/2) = 1/4 ln 2 */
    const float p[3] = {logf(2), 0, 0}, q[3] = {100, 100 + logf(2), 100};
    struct record_fidelity f = fidelity_row(p, q, 3, 1, 7);
    assert_int_equal(f.step, 7);
    near(f.kl, 0.25 * log(2));
    near(f.gold_logprob, log(0.5));
    assert_true(f.top1 == 0.0f);
    f = fidelity_row(p, p, 3, 2, 0);
    assert_true(f.kl == 0.0f && f.top1 == 1.0f);
    near(f.gold_logprob, log(0.25));
}

/* A shift of all logits changes nothing; far logits do not overflow. */
static void far_logits(void **state)
{
    (void)state;
    float p[4] = {3, -1, 0.5f, 2}, q[4] = {1003, 999, 1000.5f, 1002};
    struct record_fidelity f = fidelity_row(p, q, 4, 0, 0);
    near(f.kl, 0);
    const float one[2] = {800, -800}, two[2] = {-800, 800};
    f = fidelity_row(one, two, 2, 0, 0);
    near(f.kl, 1600);
    near(f.gold_logprob, -1600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(closed_forms), cmocka_unit_test(far_logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
