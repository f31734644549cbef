/* Forward passes against transformers (float32), and against themselves: batches, chunks, forks. */
#include "model_common.h"

static const char *const backends[] = {"ref", "cpu"};
static const char *const fixtures[] = {"fixtures/model/gqa",     "fixtures/model/linear",
                                       "fixtures/model/llama3",  "fixtures/model/qwen2",
                                       "fixtures/model/mistral", "fixtures/model/sharded"};

/* Between passes of other shapes: the plain loops compute every row alike, libraries need not. */
static double tolerance(const char *backend)
{
    return strcmp(backend, "ref") == 0 ? 1e-6 : 1e-4;
}

/* Logits of all prompt positions, then greedy decoding. */
static void check_oracle(const char *path, const char *dir, const char *backend)
{
    struct rig r;
    struct expected e;
    struct seq s;
    expected_read(&e, dir);
    rig_open(&r, path, backend, DT_F32, false);
    assert_int_equal(model_config(r.m)->n_vocab, e.n_vocab);
    OK(seq_open(&s, r.m, &r.shape, &r.full, e.n_prompt, e.n_prompt + e.n_greedy));
    const float *out = step(&r, &s, e.ids, e.n_prompt, LOGITS_ALL);
    double d = max_diff(out, e.logits, (int64_t)e.n_prompt * e.n_vocab);
    print_message("%s %s: max |delta logit| %.2g\n", backend, path, d);
    assert_true(d <= 1e-4);
    out += (int64_t)(e.n_prompt - 1) * e.n_vocab;
    for (int i = 0; i < e.n_greedy; i++) {
        const int32_t best = argmax(out, e.n_vocab);
        assert_int_equal(best, e.ids[e.n_prompt + i]);
        out = step(&r, &s, &best, 1, LOGITS_LAST);
    }
    seq_close(&s);
    rig_close(&r);
    free(e.raw);
}

static void test_oracle(void **state)
{
    (void)state;
    for (size_t t = 0; t < sizeof backends / sizeof *backends; t++) {
        for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures && have_backend(backends[t]); i++)
            check_oracle(fixtures[i], fixtures[i], backends[t]);
        if (have_backend(backends[t]))
            check_oracle("fixtures/model/gguf/model.gguf", "fixtures/model/gguf", backends[t]);
    }
}

/* 16-bit weights hold this fixture exactly; only activations may be rounded. */
static void test_16_bit(void **state)
{
    (void)state;
    struct rig r;
    struct expected e;
    struct seq s;
    expected_read(&e, fixtures[0]);
    for (int k = 0; k < 4; k++) {
        enum dtype dtype = k & 1 ? DT_F16 : DT_BF16;
        if (!have_backend(backends[k / 2]))
            continue;
        rig_open(&r, fixtures[0], backends[k / 2], dtype, false);
        OK(seq_open(&s, r.m, &r.shape, &r.full, e.n_prompt, e.n_prompt));
        const float *out = step(&r, &s, e.ids, e.n_prompt, LOGITS_ALL);
        double sum = 0;
        for (int i = 0; i < e.n_prompt * e.n_vocab; i++)
            sum += fabs((double)out[i] - (double)e.logits[i]);
        sum /= e.n_prompt * e.n_vocab;
        print_message("%s %s weights: mean |delta logit| %.2g\n", backends[k / 2], dtype_name(dtype), sum);
        assert_true(sum < (dtype == DT_F16 ? 0.01 : 0.1));
        seq_close(&s);
        rig_close(&r);
    }
    free(e.raw);
}

/* Three sequences in one batch: prompts of 9, 1 and 17 tokens, then a batch of one prompt and two decode
 * steps, give what each gives alone. */
static void test_batch(void **state)
{
    (void)state;
    static const int64_t first[3] = {9, 1, 17}, second[3] = {1, 8, 1};
    for (size_t t = 0; t < sizeof backends / sizeof *backends; t++) {
        struct rig r;
        struct expected e;
        struct seq s[3], alone;
        struct batch_item it[3];
        struct tensor logits;
        if (!have_backend(backends[t]))
            continue;
        expected_read(&e, fixtures[0]);
        rig_open(&r, fixtures[0], backends[t], DT_F32, false);
        int64_t V = e.n_vocab;
        float *got = mem_alloc((size_t)(37 * V), sizeof *got), *g = got;
        for (int i = 0; i < 3; i++) {
            OK(seq_open(&s[i], r.m, &r.shape, &r.full, first[i], 40));
            it[i] = (struct batch_item){&s[i], e.ids + i, first[i]};
        }
        OK(model_forward(r.m, it, 3, LOGITS_ALL, &logits));
        assert_int_equal(logits.n[0], 27);
        g = (float *)memcpy(g, logits.data, (size_t)(27 * V) * 4) + 27 * V;
        for (int i = 0; i < 3; i++)
            it[i] = (struct batch_item){&s[i], e.ids + i + first[i], second[i]};
        OK(model_forward(r.m, it, 3, LOGITS_LAST, &logits));
        assert_int_equal(logits.n[0], 3);
        memcpy(g, logits.data, (size_t)(3 * V) * 4);
        g = got;
        for (int i = 0; i < 3; i++) {
            OK(seq_open(&alone, r.m, &r.shape, &r.full, first[i], 40));
            const float *one = step(&r, &alone, e.ids + i, first[i], LOGITS_ALL);
            assert_true(max_diff(one, g, first[i] * V) <= tolerance(backends[t]));
            g += first[i] * V;
            one = step(&r, &alone, e.ids + i + first[i], second[i], LOGITS_LAST);
            assert_true(max_diff(one, got + (27 + i) * V, V) <= tolerance(backends[t]));
            assert_int_equal(alone.pos, s[i].pos);
            seq_close(&alone);
            seq_close(&s[i]);
        }
        free(got);
        rig_close(&r);
        free(e.raw);
    }
}

static void test_chunks(void **state)
{
    (void)state;
    for (size_t t = 0; t < sizeof backends / sizeof *backends; t++) {
        struct rig r;
        struct expected e;
        struct seq s;
        if (!have_backend(backends[t]))
            continue;
        expected_read(&e, fixtures[4]);
        rig_open(&r, fixtures[4], backends[t], DT_F32, false);
        int64_t V = e.n_vocab;
        float *whole = mem_alloc((size_t)(40 * V), sizeof *whole);
        OK(seq_open(&s, r.m, &r.shape, &r.full, 40, 40));
        memcpy(whole, step(&r, &s, e.ids, 40, LOGITS_ALL), (size_t)(40 * V) * 4);
        seq_close(&s);
        OK(seq_open(&s, r.m, &r.shape, &r.full, 40, 40));
        step(&r, &s, e.ids, 16, LOGITS_NONE);
        const float *out = step(&r, &s, e.ids + 16, 16, LOGITS_LAST);
        assert_true(max_diff(out, whole + 31 * V, V) <= tolerance(backends[t]));
        out = step(&r, &s, e.ids + 32, 8, LOGITS_ALL);
        assert_true(max_diff(out, whole + 32 * V, 8 * V) <= tolerance(backends[t]));
        seq_close(&s);
        free(whole);
        rig_close(&r);
        free(e.raw);
    }
}

/* A prompt is frozen; two forks and the sequence itself go on and give what an undisturbed one gives. */
static void test_fork(void **state)
{
    (void)state;
    struct rig r;
    struct expected e;
    struct seq plain, s, fork[2];
    struct seq_prompt p;
    struct kv_ledger l = {0};
    expected_read(&e, fixtures[1]);
    rig_open(&r, fixtures[1], "ref", DT_F32, false);
    int64_t V = e.n_vocab;
    float *want = mem_alloc((size_t)(6 * V), sizeof *want);
    OK(seq_open(&plain, r.m, &r.shape, &r.full, 24, 40));
    step(&r, &plain, e.ids, 24, LOGITS_NONE);
    for (int i = 0; i < 6; i++)
        memcpy(want + i * V, step(&r, &plain, e.ids + 24 + i, 1, LOGITS_LAST), (size_t)V * 4);
    OK(seq_open(&s, r.m, &r.shape, &r.full, 24, 40));
    step(&r, &s, e.ids, 24, LOGITS_NONE);
    OK(seq_freeze(&s, &p));
    assert_int_equal(p.n, 24);
    for (int i = 0; i < 2; i++)
        OK(seq_fork(&fork[i], r.m, &r.shape, &r.full, &p, 40));
    seq_prompt_close(&p);
    for (int i = 0; i < 6; i++) { /* the second fork sees other tokens in between */
        assert_true(max_diff(step(&r, &fork[0], e.ids + 24 + i, 1, LOGITS_LAST), want + i * V, V) <= 1e-6);
        assert_true(max_diff(step(&r, &fork[1], e.ids + i, 1, LOGITS_LAST), want + i * V, V) > 1e-3);
        assert_true(max_diff(step(&r, &s, e.ids + 24 + i, 1, LOGITS_LAST), want + i * V, V) <= 1e-6);
    }
    seq_bytes(&fork[0], &l);
    assert_true(l.shared > 0 && kv_ledger_total(&l) > l.shared);
    seq_close(&s);
    seq_close(&fork[0]);
    seq_close(&fork[1]);
    seq_close(&plain);
    free(want);
    rig_close(&r);
    free(e.raw);
}

struct tap_log {
    int calls;
    int64_t rows;
    double sum;
};
static void tap(void *ctx, int layer, const struct kv_rows *rows, int n)
{
    struct tap_log *t = ctx;
    assert_int_equal(layer, t->calls % 2);
    t->calls++;
    for (int i = 0; i < n; i++) {
        t->rows += rows[i].q.n[0];
        assert_int_equal(rows[i].k.n[1], 2);
        t->sum += (double)((const float *)rows[i].q.data)[0];
    }
}

/* Reserved once, a decode step takes no device memory; the tap sees every layer. */
static void test_reserve_and_tap(void **state)
{
    (void)state;
    struct rig r;
    struct expected e;
    struct seq s;
    struct tap_log log = {0};
    expected_read(&e, fixtures[0]);
    rig_open(&r, fixtures[0], "ref", DT_F32, false);
    OK(model_reserve(r.m, 40, 40));
    OK(seq_open(&s, r.m, &r.shape, &r.full, 40, 41));
    size_t before = r.ops->used(r.ops, MEM_WORKSPACE, PLACE_DEVICE);
    model_set_tap(r.m, tap, &log);
    const float *a = step(&r, &s, e.ids, 40, LOGITS_ALL);
    model_set_tap(r.m, NULL, NULL);
    const float *b = step(&r, &s, e.ids, 1, LOGITS_LAST);
    assert_ptr_equal(a, b);
    assert_int_equal(before, r.ops->used(r.ops, MEM_WORKSPACE, PLACE_DEVICE));
    assert_int_equal(log.calls, 2);
    assert_int_equal(log.rows, 80);
    assert_true(log.sum != 0);
    seq_close(&s);
    rig_close(&r);
    free(e.raw);
}

static void test_refusals(void **state)
{
    (void)state;
    struct rig r;
    struct seq s;
    struct tensor logits;
    static const int32_t bad[] = {1, 300, 2};
    rig_open(&r, fixtures[0], "ref", DT_F32, false);
    OK(seq_open(&s, r.m, &r.shape, &r.full, 2, 2));
    struct batch_item it = {&s, bad, 2};
    assert_int_equal(model_forward(r.m, &it, 1, LOGITS_LAST, &logits), ERR_INPUT);
    assert_non_null(strstr(err_text(), "300"));
    it = (struct batch_item){&s, bad, 3};
    assert_int_equal(model_forward(r.m, &it, 1, LOGITS_LAST, &logits), ERR_TOO_LONG);
    assert_int_equal(s.pos, 0);
    struct seq_shape shape;
    assert_int_equal(model_seq_shape(r.m, DT_F32, &(struct model_overrides){.rope_theta_factor = -1}, &shape),
                     ERR_INPUT);
    seq_close(&s);
    rig_close(&r);
}

/* One rotary table per theta factor; the factor multiplies the base (100000 in this fixture). */
static void test_theta_factor(void **state)
{
    (void)state;
    struct rig r;
    struct seq_shape a, b;
    rig_open(&r, fixtures[0], "ref", DT_F32, false);
    OK(model_seq_shape(r.m, DT_F16, &(struct model_overrides){.rope_theta_factor = 4}, &a));
    OK(model_seq_shape(r.m, DT_F32, &(struct model_overrides){.rope_theta_factor = 4}, &b));
    assert_ptr_equal(a.kind[0].rope, b.kind[0].rope);
    assert_ptr_not_equal(a.kind[0].rope, r.shape.kind[0].rope);
    for (int i = 0; i < 8; i++) {
        float want = 1.0f / powf(400000.0f, (float)(2 * i) / 16.0f);
        assert_true(fabsf(a.kind[0].rope->inv_freq[i] - want) <= 1e-7f * want);
    }
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),   cmocka_unit_test(test_16_bit),
        cmocka_unit_test(test_batch),    cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_fork),     cmocka_unit_test(test_reserve_and_tap),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_theta_factor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
