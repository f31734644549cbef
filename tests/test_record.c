/* Flat form of records: round trips of random records, damage, and the f16 conversion. */
#include "records.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void round_trip(void **state)
{
    (void)state;
    struct rng g = {1};
    for (int round = 0; round < 200; round++) {
        int n = (int)rng_below(&g, 5);
        struct record *a = mem_alloc((size_t)n + 1, sizeof *a), *b;
        for (int i = 0; i < n; i++)
            records_random(&a[i], &g, (uint64_t)(round * 10 + i));
        struct str small = {0}, big = {0};
        record_pack(a, n, &small, &big);
        int got;
        assert_int_equal(record_unpack(small.data, small.n, big.n ? big.data : "", big.n, &b, &got), 0);
        assert_int_equal(got, n);
        size_t want_big = 0;
        for (int i = 0; i < n; i++) {
            assert_string_equal(records_difference(&a[i], &b[i], true), "");
            want_big += record_big_bytes(&a[i], NULL);
            record_free(&b[i]);
        }
        assert_int_equal(big.n, want_big);
        free(b);
        assert_int_equal(record_unpack(small.data, small.n, NULL, 0, &b, &got), 0);
        for (int i = 0; i < n; i++) {
            assert_string_equal(records_difference(&a[i], &b[i], false), "");
            assert_null(b[i].first);
            assert_null(b[i].topk_id);
            assert_int_equal(record_big_bytes(&a[i], NULL), record_big_bytes(&b[i], NULL));
            record_free(&b[i]);
            record_free(&a[i]);
        }
        free(b);
        free(a);
        str_free(&small);
        str_free(&big);
    }
}

/* Cut anywhere, or with bytes changed: an error or records, never a crash (run under a sanitizer too). */
static void damage(void **state)
{
    (void)state;
    struct rng g = {2};
    struct record a[3];
    for (int i = 0; i < 3; i++)
        records_random(&a[i], &g, (uint64_t)i);
    struct str small = {0}, big = {0};
    record_pack(a, 3, &small, &big);
    int bad = 0;
    for (int round = 0; round < 5000; round++) {
        size_t n = round % 2 ? small.n : rng_below(&g, small.n);
        char *copy = mem_dup(small.data, n);
        if (round % 2)
            for (uint64_t k = 1 + rng_below(&g, 4); k; k--)
                copy[rng_below(&g, n)] = (char)rng_next(&g);
        struct record *b;
        int got;
        int rc = record_unpack(copy, n, big.data, big.n, &b, &got);
        if (rc == 0) {
            for (int i = 0; i < got; i++)
                record_free(&b[i]);
            free(b);
        } else {
            assert_int_equal(rc, ERR_INPUT);
            bad++;
        }
        free(copy);
    }
    assert_true(bad > 2000);
    for (int i = 0; i < 3; i++)
        record_free(&a[i]);
    str_free(&small);
    str_free(&big);
}

/* Every f16 value goes there and back; halfway points between neighbours go to the even one, and the float
 * beside a halfway point to its own side. */
static void half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = half_to_float((uint16_t)h);
        if ((h & 0x7fff) > 0x7c00) {
            assert_true(isnan(x));
            assert_true(isnan(half_to_float(half_from_float(x))));
            continue;
        }
        assert_int_equal(half_from_float(x), h);
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        float y = half_to_float((uint16_t)(h + 1)), mid = 0.5f * (x + y);
        assert_int_equal(half_from_float(mid), h + (h & 1));
        assert_int_equal(half_from_float(nextafterf(mid, x)), h);
        assert_int_equal(half_from_float(nextafterf(mid, y)), h + 1);
    }
    assert_int_equal(half_from_float(65519.996f), 0x7bff);
    assert_int_equal(half_from_float(65520.0f), 0x7c00);
    assert_int_equal(half_from_float(-1e30f), 0xfc00);
    assert_true(half_to_float(0x3c00) == 1.0f);
    assert_true(half_to_float(0x0001) == 0x1p-24f);
}

static void names(void **state)
{
    (void)state;
    assert_string_equal(record_status_name(ST_OK), "ok");
    assert_string_equal(record_status_name(ST_TOO_LONG), "too_long");
    assert_string_equal(record_status_name(ST_ERROR), "error");
    assert_string_equal(record_status_name(ST_N), "unknown");
    assert_string_equal(record_stop_name(STOP_MAX_NEW), "max_new");
    assert_string_equal(record_stop_name(-1), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(damage),
                                       cmocka_unit_test(half), cmocka_unit_test(names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
