/* Budgets in bytes: what a method chooses for a sequence fits, is the mildest that fits, and what is
 * impossible is refused with the smallest possible figure. */
#include "kv_rig.h"

/* Two layers of 2 KV heads of 32, f16: an uncompressed token takes 512 bytes. */
static struct seq_shape shape_of(const struct rig *g)
{
    struct seq_shape s = g->shape;
    s.n_layer = 2;
    return s;
}

static uint64_t device_bytes(const struct kv_spec *s, const struct seq_shape *shape, int64_t n_prompt,
                             int64_t n_max)
{
    struct kv_ledger l;
    assert_int_equal(kv_predict(s, shape, n_prompt, n_max, &l), 0);
    return kv_ledger_place(&l, PLACE_DEVICE);
}

/* Least and most device bytes of a method for a sequence. */
static void range(const struct kv_method *m, const struct seq_shape *shape, int64_t n_prompt, int64_t n_max,
                  uint64_t *least, uint64_t *most)
{
    struct kv_spec s, out;
    char text[64];
    snprintf(text, sizeof text, "%s:budget=1", m->name);
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(kv_spec_solve(&out, &s, shape, n_prompt, n_max), ERR_INPUT);
    const char *at = strstr(err_text(), "(budget=");
    assert_non_null(strstr(err_text(), "the smallest possible is"));
    assert_non_null(at);
    *least = strtoull(at + 8, NULL, 10);
    kv_spec_free(&s);
    snprintf(text, sizeof text, "%s:budget=1TiB", m->name);
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(kv_spec_solve(&out, &s, shape, n_prompt, n_max), 0);
    *most = device_bytes(&out, shape, n_prompt, n_max);
    kv_spec_free(&out);
    kv_spec_free(&s);
}

/* Every method with a strength: the smallest figure of the refusal is possible, one byte less is not; more
 * bytes never choose a smaller cache; the choice leaves less than one step unused. */
static void every_method_fits(void **state)
{
    (void)state;
    struct rig g;
    int n_tried = 0;
    rig_init(&g, 6, 2, 32, DT_F16);
    struct seq_shape shape = shape_of(&g);
    for (int i = 0; kv_method_at(i); i++) {
        const struct kv_method *m = kv_method_at(i);
        uint64_t least, most, before = 0;
        if (!kv_has_strength(m))
            continue;
        range(m, &shape, 3000, 3100, &least, &most);
        /* a method that only masks tokens has one size, whatever its strength */
        if (!(least < most || (least == most && !strcmp(m->name, "h2o-paper"))))
            fail_msg("%s: %llu to %llu", m->name, (unsigned long long)least, (unsigned long long)most);
        for (int k = -1; k <= 8; k++) {
            struct kv_spec s, out;
            char text[64];
            uint64_t budget = k < 0 ? least - 1 : least + (most - least) * (uint64_t)k / 8;
            snprintf(text, sizeof text, "%s:budget=%llu", m->name, (unsigned long long)budget);
            assert_int_equal(kv_spec_parse(&s, text), 0);
            int rc = kv_spec_solve(&out, &s, &shape, 3000, 3100);
            assert_int_equal(rc, k < 0 ? ERR_INPUT : 0);
            if (k >= 0) {
                uint64_t bytes = device_bytes(&out, &shape, 3000, 3100);
                assert_true(bytes <= budget && bytes >= before);
                before = bytes;
                kv_spec_free(&out);
            }
            kv_spec_free(&s);
        }
        assert_int_equal(before, most);
        n_tried++;
    }
    assert_true(n_tried >= 2);
    rig_free(&g);
}

/* 100,000 bytes: 195 tokens of 512 bytes and a query row per layer would be 99,840 + 1,536; 192 tokens fit.
 */
static void streaming_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct kv_spec s, out;
    rig_init(&g, 6, 2, 32, DT_F16);
    struct seq_shape shape = shape_of(&g);
    assert_int_equal(kv_spec_parse(&s, "streaming:budget=100000"), 0);
    assert_true(isnan(s.nominal_ratio));
    assert_int_equal(kv_spec_solve(&out, &s, &shape, 3000, 3100), 0);
    struct kv_cache c;
    struct kv_budgets b;
    assert_int_equal(kv_open(&c, &out, &shape, g.ops, 0, 3000, 3100), 0);
    kv_get_budgets(&c, &b);
    assert_near(b.value[KV_N_INIT] + b.value[KV_N_LOCAL], 192, 0);
    assert_near(b.value[KV_N_INIT], 4, 0); /* 2.1 % of 192 */
    assert_int_equal(rig_used(&g), 192 * 256 + 6 * 32 * 4);
    kv_close(&c);
    assert_int_equal(kv_open(&c, &s, &shape, g.ops, 0, 3000, 3100), ERR_INTERNAL); /* not solved */
    kv_spec_free(&out);
    kv_spec_free(&s);
    rig_free(&g);
}

/* KIVI has two sizes. */
static void kivi_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct kv_spec four, two, s, out;
    rig_init(&g, 6, 2, 32, DT_F16);
    struct seq_shape shape = shape_of(&g);
    assert_int_equal(kv_spec_parse(&four, "kivi:bits=4,residual=32"), 0);
    assert_int_equal(kv_spec_parse(&two, "kivi:bits=2,residual=32"), 0);
    uint64_t b4 = device_bytes(&four, &shape, 3000, 3100), b2 = device_bytes(&two, &shape, 3000, 3100);
    const struct {
        uint64_t budget;
        const char *text; /* NULL: refused */
    } rows[] = {{b4 + 7, four.text}, {b4, four.text}, {b4 - 1, two.text}, {b2, two.text}, {b2 - 1, NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[64];
        snprintf(text, sizeof text, "kivi:residual=32,budget=%llu", (unsigned long long)rows[i].budget);
        assert_int_equal(kv_spec_parse(&s, text), 0);
        int rc = kv_spec_solve(&out, &s, &shape, 3000, 3100);
        if (rows[i].text) {
            assert_int_equal(rc, 0);
            struct kv_spec same;
            assert_int_equal(kv_spec_parse(&same, rows[i].text), 0);
            assert_memory_equal(out.params, same.params, out.method->params_bytes);
            kv_spec_free(&same);
            kv_spec_free(&out);
        } else {
            assert_int_equal(rc, ERR_INPUT);
            assert_non_null(strstr(err_text(), "a prompt of 3000 tokens and 100 new ones"));
        }
        kv_spec_free(&s);
    }
    kv_spec_free(&four);
    kv_spec_free(&two);
    rig_free(&g);
}

static void texts(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"kivi:budget=1536KiB", "kivi:group=32,residual=128", "kivi:"},
        {"kivi:budget=1.5MiB", "budget=1536KiB", "kivi:budget=1536KiB"},
        {"streaming:budget=1GiB,init_share=0.1", "init_share=0.1,cap=0",
         "streaming:init_share=0.1,budget=1GiB"},
        {"streaming:budget=1001", "budget=1001", "streaming:budget=1001"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct kv_spec s, again;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), 0);
        if (!strstr(s.text, rows[i][1]) || strstr(s.text, "bits=") || strstr(s.text, "keep="))
            fail_msg("%s", s.text);
        assert_non_null(strstr(s.label, rows[i][2]));
        assert_int_equal(kv_spec_parse(&again, s.text), 0);
        assert_string_equal(again.text, s.text);
        assert_int_equal(again.budget, s.budget);
        kv_spec_free(&again);
        kv_spec_free(&s);
    }
}

static void refusals(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"full:budget=1MiB", "it has no 'budget'"},
        {"kivi:budget=much", "use bytes of one sequence, e.g. 256MiB"},
        {"kivi:budget=0", "use bytes of one sequence"},
        {"kivi:budget=-1", "use bytes of one sequence"},
        {"kivi:bits=2,budget=1MiB", "bits is chosen by the budget"},
        {"streaming:ratio=2,budget=1MiB", "budget and ratio exclude each other"},
        {"streaming:budget=1MiB,keep=0.5", "keep is chosen by the budget"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), ERR_INPUT);
        if (!strstr(err_text(), rows[i][1]))
            fail_msg("'%s' gave: %s", rows[i][0], err_text());
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_fits), cmocka_unit_test(streaming_by_hand),
        cmocka_unit_test(kivi_by_hand),      cmocka_unit_test(texts),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
