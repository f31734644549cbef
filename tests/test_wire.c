/* Messages between ranks: what is put is read back; nothing else is taken. */
#include "base/err.h"
#include "expect.h"
#include "sweep/stop.h"
#include "sweep/wire.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct wire_msg result(void)
{
    return (struct wire_msg){.kind = MSG_RESULT,
                             .job = 7,
                             .loaded = 2,
                             .wish = STOP_SOON,
                             .bundle = 0xabcdef,
                             .s_step = 1.5,
                             .n_small = 5,
                             .n_big = 3};
}

static struct wire_msg work(void)
{
    struct wire_msg m = {.kind = MSG_WORK, .job = 3, .loaded = -1};
    m.work = (struct job){
        .n = 2, .model = 1, .task = 4, .attempt = 9, .id = 11, .crash_id = 12, .s_cost = 2.5, .s_step = 0.5};
    m.work.unit[0] = 100;
    m.work.unit[1] = 101;
    return m;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct str s = {0};
    struct wire w;
    struct wire_msg m = result();
    wire_put(&s, &m, "small", "big");
    OK(wire_get(&w, s.data, s.n));
    assert_int_equal(w.m.kind, MSG_RESULT);
    assert_int_equal(w.m.job, 7);
    assert_int_equal(w.m.loaded, 2);
    assert_int_equal(w.m.wish, STOP_SOON);
    assert_int_equal(w.m.bundle, 0xabcdef);
    assert_true(w.m.s_step == 1.5);
    assert_memory_equal(w.small, "small", 5);
    assert_memory_equal(w.big, "big", 3);
    str_clear(&s);
    m = work();
    wire_put(&s, &m, NULL, NULL);
    OK(wire_get(&w, s.data, s.n));
    assert_int_equal(w.m.work.n, 2);
    assert_int_equal(w.m.work.unit[1], 101);
    assert_int_equal(w.m.work.crash_id, 12);
    str_free(&s);
}

/* Every shorter and every longer message is refused. The copy has its exact size, so that checkers of memory
 * see what is read behind it. */
static void test_lengths(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct str s = {0};
        struct wire_msg m = k ? work() : result();
        struct wire w;
        wire_put(&s, &m, "small", "big");
        for (size_t n = 0; n < s.n; n++) {
            char *cut = malloc(n ? n : 1);
            memcpy(cut, s.data, n);
            assert_int_equal(wire_get(&w, cut, n), ERR_INPUT);
            free(cut);
        }
        str_addc(&s, 'x');
        assert_int_equal(wire_get(&w, s.data, s.n), ERR_INPUT);
        str_free(&s);
    }
}

/* A flipped bit is refused, or it is a message whose parts lie inside the bytes. */
static void test_flips(void **state)
{
    (void)state;
    struct str s = {0};
    struct wire_msg m = result();
    wire_put(&s, &m, "small", "big");
    for (size_t bit = 0; bit < 8 * s.n; bit++) {
        struct wire w;
        s.data[bit / 8] ^= (char)(1 << bit % 8);
        if (wire_get(&w, s.data, s.n) == 0) {
            assert_true(w.m.n_small + w.m.n_big <= s.n);
            assert_ptr_equal(w.big + w.m.n_big, s.data + s.n);
            assert_true(isfinite(w.m.s_step));
        }
        s.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    str_free(&s);
}

static void refused(const struct wire_msg *m, const char *small, const char *what)
{
    struct str s = {0};
    struct wire w;
    wire_put(&s, m, small, NULL);
    assert_int_equal(wire_get(&w, s.data, s.n), ERR_INPUT);
    assert_non_null(strstr(err_text(), what));
    str_free(&s);
}

static void test_refused(void **state)
{
    (void)state;
    struct str s = {0};
    struct wire w;
    struct wire_msg m = result();
    wire_put(&s, &m, "small", "big");
    s.data[4]++;
    assert_int_equal(wire_get(&w, s.data, s.n), ERR_INPUT);
    assert_non_null(strstr(err_text(), "version 2"));
    str_free(&s);
    m = (struct wire_msg){.kind = MSG_N, .job = -1, .loaded = -1};
    refused(&m, NULL, "holds values that no rank sends");
    m = (struct wire_msg){.kind = MSG_ALIVE, .job = -1, .loaded = -1, .n_small = 2};
    refused(&m, "ab", "holds values that no rank sends");
    m = (struct wire_msg){.kind = MSG_RESULT, .job = -1, .loaded = -1};
    refused(&m, NULL, "holds values that no rank sends");
    m = (struct wire_msg){.kind = MSG_ERROR, .job = -1, .loaded = -1, .n_small = 2};
    refused(&m, "ab", "holds values that no rank sends");
    m = (struct wire_msg){.kind = MSG_ALIVE, .job = -1, .loaded = -1, .s_step = NAN};
    refused(&m, NULL, "holds values that no rank sends");
    m = work();
    m.work.n = PLAN_BATCH + 1;
    refused(&m, NULL, "a job that no plan has");
    m = work();
    m.work.unit[1] = -1;
    refused(&m, NULL, "a job that no plan has");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_flips),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
