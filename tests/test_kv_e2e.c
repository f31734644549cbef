/* Whole models with a compressor, float32, against oracles written from the upstream sources: first choices
 * at 100 steps along given tokens, and logits (oracle/e2e_fixtures.py says what the files hold). */
#include "model_common.h"

static const char *const backends[] = {"ref", "cpu"};

struct e2e {
    char *raw;
    int n_prompt, n_new, n_vocab, n_row;
    const char *method;
    const int32_t *ids, *best, *row;
    const float *gap, *logits; /* [n_new]; [n_row,n_vocab] */
};

static void e2e_read(struct e2e *e, const char *path)
{
    size_t n;
    OK(file_read(path, &e->raw, &n));
    const int32_t *head = (const int32_t *)(const void *)e->raw;
    e->n_prompt = head[0];
    e->n_new = head[1];
    e->n_vocab = head[2];
    e->n_row = head[3];
    e->method = e->raw + 16;
    e->ids = head + 20;
    e->best = e->ids + e->n_prompt + e->n_new;
    e->row = e->best + e->n_new;
    e->gap = (const float *)(const void *)(e->row + e->n_row);
    e->logits = e->gap + e->n_new;
    assert_int_equal(n, (size_t)(20 + e->n_prompt + 3 * e->n_new + e->n_row * (1 + e->n_vocab)) * 4);
}

/* The prompt as `kvsweep logits` runs it: a pass of the method's own, or a plain one to fork from. */
static const float *prompt_pass(struct rig *r, struct seq *s, const struct kv_spec *spec, const struct e2e *e)
{
    const int64_t n_max = e->n_prompt + e->n_new;
    struct seq plain;
    struct seq_prompt p;
    if (kv_prefill_key(spec, e->n_prompt, &r->shape) != 0) {
        OK(seq_open(s, r->m, &r->shape, spec, e->n_prompt, n_max));
        step(r, s, e->ids, e->n_prompt - 1, LOGITS_NONE);
        return step(r, s, e->ids + e->n_prompt - 1, 1, LOGITS_LAST);
    }
    OK(seq_open_prompt(&plain, r->m, &r->shape, &r->full, e->n_prompt, kv_wants(spec)));
    const float *out = step(r, &plain, e->ids, e->n_prompt, LOGITS_LAST);
    OK(seq_freeze(&plain, &p));
    OK(seq_fork(s, r->m, &r->shape, spec, &p, n_max));
    seq_close(&plain);
    seq_prompt_close(&p);
    return out;
}

static void check(const char *model, const char *path, const char *backend)
{
    struct rig r;
    struct e2e e;
    struct seq s;
    struct kv_spec spec;
    double worst = 0;
    int n_clear = 0, row = 0;
    e2e_read(&e, path);
    rig_open(&r, model, backend, DT_F32, false);
    assert_int_equal(model_config(r.m)->n_vocab, e.n_vocab);
    OK(kv_spec_parse(&spec, e.method));
    const float *out = prompt_pass(&r, &s, &spec, &e);
    for (int i = 0; i < e.n_new; i++) {
        if (e.gap[i] > 1e-3f && argmax(out, e.n_vocab) != e.best[i])
            fail_msg("%s, %s: %s chooses %d at step %d, the oracle %d", backend, path, e.method,
                     argmax(out, e.n_vocab), i, e.best[i]);
        n_clear += e.gap[i] > 1e-3f;
        if (row < e.n_row && e.row[row] == i)
            worst = fmax(worst, max_diff(out, e.logits + (size_t)row++ * (size_t)e.n_vocab, e.n_vocab));
        if (i + 1 < e.n_new)
            out = step(&r, &s, e.ids + e.n_prompt + i, 1, LOGITS_LAST);
    }
    print_message("%s %s %s: %d clear choices, max |delta logit| %.2g\n", backend, path, e.method, n_clear,
                  worst);
    assert_int_equal(row, e.n_row);
    assert_true(n_clear >= 95);
    assert_true(worst <= 2e-3);
    kv_spec_free(&spec);
    seq_close(&s);
    rig_close(&r);
    free(e.raw);
}

static void check_model(const char *model, const char *name)
{
    for (size_t t = 0; t < sizeof backends / sizeof *backends; t++)
        for (int i = 0; i < 3 && have_backend(backends[t]); i++) {
            char *path = mem_printf("fixtures/e2e/%s-%d.bin", name, i);
            check(model, path, backends[t]);
            free(path);
        }
}

static void gqa(void **state)
{
    (void)state;
    check_model("fixtures/tiny", "gqa");
}

static void mha(void **state)
{
    (void)state;
    check_model("fixtures/e2e/mha", "mha");
}

/* What knorm keeps of 300 tokens of 12 kinds in the first layer, where equal tokens have equal keys: owned
 * [Hk,n]. */
static int32_t *knorm_kept(const char *backend, int threads, int64_t *n_head, int64_t *n)
{
    enum { N = 300 };
    struct rig r;
    struct seq plain, s;
    struct seq_prompt p;
    struct kv_spec spec;
    struct kv_dump out[KV_DUMP_MAX];
    int32_t ids[N];
    int n_out;
    rig_open(&r, "fixtures/tiny", backend, DT_F32, false);
    r.ops->threads = threads;
    r.shape.dtype = DT_F16;
    for (int i = 0; i < N; i++)
        ids[i] = 20 + i * 7 % 12;
    OK(kv_spec_parse(&spec, "knorm:ratio=3"));
    OK(seq_open_prompt(&plain, r.m, &r.shape, &r.full, N, kv_wants(&spec)));
    step(&r, &plain, ids, 161, LOGITS_NONE); /* chunks of several kinds of products */
    step(&r, &plain, ids + 161, N - 161, LOGITS_LAST);
    OK(seq_freeze(&plain, &p));
    OK(seq_fork(&s, r.m, &r.shape, &spec, &p, N + 1));
    OK(kv_dump(&s.layer[0], out, &n_out));
    assert_string_equal(out[0].name, "kept");
    *n_head = out[0].n[0];
    *n = out[0].n[1];
    int32_t *kept = out[0].data;
    for (int i = 1; i < n_out; i++)
        free(out[i].data);
    seq_close(&plain);
    seq_prompt_close(&p);
    seq_close(&s);
    kv_spec_free(&spec);
    rig_close(&r);
    return kept;
}

/* The same keys on every backend and thread count, the older ones of equal tokens. */
static void knorm_keys(void **state)
{
    (void)state;
    int64_t n_head, n, h2, n2;
    int32_t *ref = knorm_kept("ref", 1, &n_head, &n);
    assert_int_equal(n, 100);
    for (int threads = 1; threads <= 2; threads++) {
        int32_t *cpu = knorm_kept("cpu", threads, &h2, &n2);
        assert_int_equal(n_head * n, h2 * n2);
        assert_memory_equal(cpu, ref, (size_t)(n_head * n) * sizeof *ref);
        free(cpu);
    }
    for (int64_t h = 0; h < n_head;
         h++) { /* tokens of a kind come 12 apart: none may be left out before one kept */
        bool kept[300] = {false};
        for (int64_t i = 0; i < n; i++)
            kept[ref[h * n + i]] = true;
        for (int i = 12; i < 300; i++)
            assert_true(!kept[i] || kept[i - 12]);
    }
    free(ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gqa), cmocka_unit_test(mha),
                                       cmocka_unit_test(knorm_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
