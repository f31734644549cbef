/* kivi and streaming against an oracle that was transcribed from the upstream sources by somebody who had
 * seen neither this program nor its specification (oracle/kivi_oracle.py, oracle/streaming_oracle.py). The
 * fixtures and their format: fixtures/kv/README.md. */
#include "kv_fix.h"

/* ------------------------------------------------------------------ kivi */

static uint64_t hash_bytes(uint64_t h, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = h * UINT64_C(0x100000001B3) + ((const uint8_t *)data)[i] + 1;
    return h;
}

/* [n,Hk,c] of a dump in the order of the oracle, [Hk,n,c]; halves lose the sign of zero. */
static uint64_t hash_dump(uint64_t h, const struct kv_dump *d)
{
    size_t size = dtype_bytes(d->dtype);
    for (int64_t head = 0; head < d->n[1]; head++)
        for (int64_t i = 0; i < d->n[0]; i++) {
            const char *row = (const char *)d->data + (size_t)((i * d->n[1] + head) * d->n[2]) * size;
            for (int64_t c = 0; c < d->n[2]; c++) {
                uint16_t x = 0;
                memcpy(&x, row + (size_t)c * size, size);
                if (d->dtype == DT_F16 && x == 0x8000)
                    x = 0;
                h = hash_bytes(h, &x, size);
            }
        }
    return h;
}

/* Window rows are the tokens from `from` on. */
static void check_window(const struct kv_dump *w, const float *rows, int64_t from)
{
    size_t n = (size_t)(w->n[0] * w->n[1] * w->n[2]), row = (size_t)(w->n[1] * w->n[2]);
    for (size_t i = 0; i < n; i++)
        assert_true(from_half(((const uint16_t *)w->data)[i]) == rows[(size_t)from * row + i]);
}

static void check_state(const struct fix *file, const struct kv_cache *c, const struct feed *f, int i,
                        int64_t step)
{
    struct array counts = fix_get(file, KIND_I32, "c%d.counts", i),
                 hash = fix_get(file, KIND_U64, "c%d.hash", i);
    const uint64_t *want = (const uint64_t *)hash.data + 4 * step;
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    const struct kv_dump *k = dump_find(d, n, "k_codes"), *v = dump_find(d, n, "v_codes");
    assert_int_equal(c->n, int_at(&counts, 3 * step));
    assert_int_equal(k->n[0], int_at(&counts, 3 * step + 1));
    assert_int_equal(v->n[0], int_at(&counts, 3 * step + 2));
    assert_int_equal(dump_find(d, n, "k_window")->n[0], c->n - k->n[0]);
    assert_int_equal(dump_find(d, n, "v_window")->n[0], c->n - v->n[0]);
    uint64_t got[4] = {
        hash_dump(0, k), hash_dump(hash_dump(0, dump_find(d, n, "k_scale")), dump_find(d, n, "k_min")),
        hash_dump(0, v), hash_dump(hash_dump(0, dump_find(d, n, "v_scale")), dump_find(d, n, "v_min"))};
    static const char *const what[] = {"key codes", "key scales", "value codes", "value scales"};
    for (int x = 0; x < 4; x++)
        if (got[x] != want[x])
            fail_msg("%s, %d-bit: case %d, step %d: %s differ", c->method->name,
                     (int)*(const int64_t *)c->params, i, (int)step, what[x]);
    check_window(dump_find(d, n, "k_window"), f->k, k->n[0]);
    check_window(dump_find(d, n, "v_window"), f->v, v->n[0]);
    dump_free(d, n);
}

/* Codes of the longest state one by one: tells where, if the hashes do not agree. */
static void check_final(const struct fix *file, const struct kv_cache *c, int bits)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    for (int x = 0; x < 2; x++) {
        struct array want = fix_get(file, KIND_U8, x ? "final.v_codes" : "final.k_codes", 0);
        const struct kv_dump *got = dump_find(d, n, x ? "v_codes" : "k_codes");
        const int64_t tokens = got->n[0], hk = got->n[1], width = got->n[2], per = 8 / bits;
        assert_int_equal(want.n[0], hk);
        assert_int_equal(want.n[1], tokens);
        for (int64_t i = 0; i < hk * tokens * width; i++) {
            int64_t h = i / (tokens * width), t = i / width % tokens, ch = i % width;
            int code = ((const uint8_t *)want.data)[i / per] >> (i % per * bits) & ((1 << bits) - 1);
            int have = ((const uint8_t *)got->data)[(t * hk + h) * width + ch];
            if (code != have)
                fail_msg("%s code of head %d, token %d, channel %d: %d is not %d", x ? "value" : "key",
                         (int)h, (int)t, (int)ch, have, code);
        }
    }
    dump_free(d, n);
}

static void kivi_case(const struct fix *file, const struct rig *g, const struct feed *f, struct kv_dense *all,
                      const struct kv_spec *spec, int i, double bound)
{
    struct array cases = fix_get(file, KIND_I32, "case", 0),
                 keep = fix_get(file, KIND_I32, "c%d.out_step", i);
    struct array out = fix_get(file, KIND_F32, "c%d.out_f32", i),
                 final = fix_get(file, KIND_I32, "final.n", 0);
    int64_t n_prompt = int_at(&cases, 2 * i), n_steps = int_at(&cases, 2 * i + 1);
    struct kv_dense prompt = *all;
    struct kv_cache c;
    prompt.n = n_prompt;
    assert_int_equal(kv_fork(&c, spec, &g->shape, g->ops, 0, &prompt, n_prompt + n_steps), 0);
    check_state(file, &c, f, i, 0);
    int64_t kept = 0;
    for (int64_t step = 1; step <= n_steps; step++) {
        assert_int_equal(rig_step(g, &c, f, 1), 0);
        check_state(file, &c, f, i, step);
        if (kept == keep.n[0] || int_at(&keep, kept) != step)
            continue;
        const float *want = (const float *)out.data + (size_t)kept++ * f->q_row;
        compare_rows(f->out + (size_t)(c.n - 1) * f->q_row, want, f->q_row, bound, spec->text, i, step);
    }
    assert_int_equal(kept, keep.n[0]);
    if (c.n == int_at(&final, 0))
        check_final(file, &c, (int)*(const int64_t *)spec->params);
    kv_close(&c);
}

/* q and k of the stream count as rotated here: the rig has no rotary table. */
static void kivi_stream(const char *name, int bits, double bound)
{
    struct fix file;
    struct rig g;
    struct feed f;
    struct kv_spec full, kivi;
    struct kv_cache plain;
    char *path = mem_printf("kivi_%s_%dbit", name, bits);
    fix_open(&file, path);
    struct array param = fix_get(&file, KIND_I32, "param", 0), cases = fix_get(&file, KIND_I32, "case", 0);
    stream_open(&g, &f, name, int_at(&param, 6), DT_F16);
    g.shape.kind[0].rope = NULL;
    char *text = mem_printf("kivi:bits=%d,group=%d,residual=%d", bits, int_at(&param, 3), int_at(&param, 4));
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_spec_parse(&kivi, text), 0);
    assert_int_equal(kv_open(&plain, &full, &g.shape, g.ops, 0, f.n, f.n), 0);
    rig_feed(&g, &plain, &f, f.n, 512);
    struct kv_dense *all;
    assert_int_equal(kv_freeze(&plain, &all), 0);
    for (int i = 0; i < cases.n[0]; i++)
        kivi_case(&file, &g, &f, all, &kivi, i, bound);
    kv_dense_unref(all, g.ops);
    kv_close(&plain);
    kv_spec_free(&full);
    kv_spec_free(&kivi);
    free(path);
    free(text);
    free(file.bytes);
    feed_free(&f);
    rig_free(&g);
}

static void kivi_gqa(void **state)
{
    (void)state;
    kivi_stream("gqa", 2, 1e-5);
    kivi_stream("gqa", 4, 1e-5);
}

static void kivi_mha(void **state)
{
    (void)state;
    kivi_stream("mha", 2, 1e-5);
    kivi_stream("mha", 4, 1e-5);
}

/* Constant groups, scales that underflow to zero, exact ties; keys in the thousands make logits whose last
 * float bit is worth 1e-5 and more. */
static void kivi_edge(void **state)
{
    (void)state;
    kivi_stream("edge", 2, 1e-4);
    kivi_stream("edge", 4, 1e-4);
}

/* ------------------------------------------------------------------ streaming */

static void held(const struct fix *file, const struct kv_cache *c, int i, int64_t call)
{
    struct array want = fix_get(file, KIND_I32, "c%d.held", i);
    struct kv_budgets b;
    kv_get_budgets(c, &b);
    assert_true(call < want.n[0]);
    assert_int_equal(c->n, int_at(&want, 5 * call));
    assert_near(b.value[KV_KEPT_TOKENS], int_at(&want, 5 * call + 1), 0);
}

static void streaming_case(const struct fix *file, const char *name, int i)
{
    struct array param = fix_get(file, KIND_I32, "param", 0), cases = fix_get(file, KIND_I32, "case", 0);
    struct array rows = fix_get(file, KIND_I32, "c%d.rows", i), out = fix_get(file, KIND_F32, "c%d.out", i);
    const int64_t n = int_at(&param, 0), n_prompt = int_at(&param, 1), chunk = int_at(&param, 2);
    const int32_t *size = (const int32_t *)cases.data + 3 * i; /* n_init, n_local, linear factor or 0 */
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    stream_open(&g, &f, name, n, DT_F32);
    for (int k = 0; size[2] && k < g.shape.kind[0].d_k / 2; k++)
        g.inv_freq[k] /= (float)size[2];
    char *text = mem_printf("streaming:init=%d,local=%d", size[0], size[1]);
    assert_int_equal(kv_spec_parse(&spec, text), 0);
    if (needs_own_pass(&spec, n_prompt, &g.shape)) { /* the last prompt token by itself, as upstream */
        assert_int_equal(kv_open(&c, &spec, &g.shape, g.ops, 0, n_prompt, n), 0);
        for (int64_t call = 0; c.n < n; call++) {
            int64_t left = n_prompt - 1 - c.n;
            assert_int_equal(rig_step(&g, &c, &f, left <= 0 ? 1 : left < chunk ? left : chunk), 0);
            held(file, &c, i, call);
        }
    } else {
        assert_int_equal(rig_prompt(&g, &c, &spec, &f, n_prompt, n, chunk), 0);
        rig_feed(&g, &c, &f, n, 1);
    }
    /* Upstream counts positions from the first key it holds, here they are the true ones: float angles
     * differ. */
    for (int64_t r = 0; r < rows.n[0]; r++)
        compare_rows(f.out + (size_t)int_at(&rows, r) * f.q_row,
                     (const float *)out.data + (size_t)r * f.q_row, f.q_row, 3e-5, text, i, int_at(&rows, r));
    kv_close(&c);
    kv_spec_free(&spec);
    free(text);
    feed_free(&f);
    rig_free(&g);
}

static void streaming_stream(const char *name)
{
    struct fix file;
    char *path = mem_printf("streaming_%s", name);
    fix_open(&file, path);
    struct array cases = fix_get(&file, KIND_I32, "case", 0);
    for (int i = 0; i < cases.n[0]; i++)
        streaming_case(&file, name, i);
    free(path);
    free(file.bytes);
}

static void streaming_gqa(void **state)
{
    (void)state;
    streaming_stream("gqa");
}

static void streaming_mha(void **state)
{
    (void)state;
    streaming_stream("mha");
}

/* Sizes for ratio, prompt length and the cap that the model's length puts on the budget. */
static void budgets(void **state)
{
    (void)state;
    fix_budgets("streaming", (const enum kv_budget[]){KV_N_INIT, KV_N_LOCAL}, 0, 2);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kivi_gqa),      cmocka_unit_test(kivi_mha),      cmocka_unit_test(kivi_edge),
        cmocka_unit_test(streaming_gqa), cmocka_unit_test(streaming_mha), cmocka_unit_test(budgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
