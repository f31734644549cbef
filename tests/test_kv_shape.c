/* Kinds of layers: bytes, flops and ranks of shapes; the plain cache of a window; states; methods on models
 * whose layers differ. */
#include "kv_rig.h"

#include "kernels/half.h"

enum { WINDOW = 16 };

/* Layers 0 and 3 see all tokens, 1 and 2 a window, 4 keeps a state of 3*10 halves and 2*4*5 floats. */
static void make_hybrid(struct seq_shape *s, const struct rig *g)
{
    *s = g->shape;
    s->n_layer = 5, s->n_kind = 3;
    memcpy(s->kind_of, (const uint8_t[]){0, 1, 1, 0, 2}, 5);
    s->kind[1] =
        kind_attention(g->shape.kind[0].n_head, g->shape.kind[0].n_kv_head, g->shape.kind[0].d_k, WINDOW);
    s->kind[2] = (struct layer_kind){.mixer = MIX_RECURRENT,
                                     .n_state = 2,
                                     .state = {{"conv", DT_F16, {3, 10, 1}}, {"ssm", DT_F32, {2, 4, 5}}}};
}

static void bytes_of_shapes(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape s;
    rig_init(&g, 4, 2, 32, DT_F16);
    make_hybrid(&s, &g);
    const uint64_t row = 2 * 2 * 32 * 2, held = 3 * 10 * 2 + 2 * 4 * 5 * 4;
    assert_int_equal(kind_row_bytes(&s.kind[0], DT_F16), row);
    assert_int_equal(kind_state_bytes(&s.kind[2]), held);
    assert_int_equal(shape_full_bytes(&s, 100), 2 * 100 * row + 2 * WINDOW * row + held);
    assert_int_equal(shape_full_bytes(&s, 5), 4 * 5 * row + held);
    assert_int_equal(shape_layer_bytes(&s, 2, 100), WINDOW * row);
    assert_int_equal(shape_layers_of(&s, 1), 2);
    rig_free(&g);
}

/* Of llama: four flops per pair, head and channel; in parts as in one; windows count what they see. */
static void flops(void **state)
{
    (void)state;
    struct seq_shape s;
    const struct layer_kind all = kind_attention(32, 8, 128, 0), near = kind_attention(32, 8, 128, 1000);
    shape_alike(&s, 24, &all);
    const double n = 31500, one = 2.0 * n * n * 32 * 128 * 24;
    assert_true(shape_mix_flops(&s, 0, 31500) == one);
    assert_near(shape_mix_flops(&s, 0, 700) + shape_mix_flops(&s, 700, 31500), one, 1e-12 * one);
    shape_alike(&s, 24, &near);
    double sum = 0; /* row t sees min(t, 1000) keys before it and itself by half */
    for (int t = 0; t < 31500; t++)
        sum += 4.0 * 32 * 128 * 24 * (t < 1000 ? t + 0.5 : 1000);
    assert_near(shape_mix_flops(&s, 0, 31500), sum, 1e-9 * sum);
}

/* What row p of head h must be, if it sees `window` keys (0: all), in double. */
static void check_row(const struct rig *g, const struct feed *f, int64_t p, int64_t window)
{
    const struct layer_kind *k = &g->shape.kind[0];
    const int64_t H = k->n_head, Hk = k->n_kv_head, d = k->d_k;
    const int64_t from = window && p - window + 1 > 0 ? p - window + 1 : 0;
    for (int64_t h = 0; h < H; h++) {
        const float *q = f->q + (p * H + h) * d;
        double out[64] = {0}, sum = 0;
        for (int64_t j = from; j <= p; j++) {
            const float *key = f->k + (j * Hk + h / (H / Hk)) * d, *v = f->v + (j * Hk + h / (H / Hk)) * d;
            double dot = 0;
            for (int64_t c = 0; c < d; c++)
                dot += (double)q[c] * (double)key[c];
            double e = exp(dot / sqrt((double)d));
            sum += e;
            for (int64_t c = 0; c < d; c++)
                out[c] += e * (double)v[c];
        }
        for (int64_t c = 0; c < d; c++)
            if (!(fabs((double)f->out[(p * H + h) * d + c] - out[c] / sum) <= 2e-5))
                fail_msg("row %d, head %d of a window of %d", (int)p, (int)h, (int)window);
    }
}

static void window_rig(struct rig *g, int64_t window)
{
    rig_init(g, 4, 2, 16, DT_F32);
    g->shape.kind[0] = kind_attention(4, 2, 16, window); /* not rotated: rows come as they are kept */
}

/* Prompts around and far beyond the window, cut in every way, then answers that cross it. */
static void windows(void **state)
{
    (void)state;
    static const int64_t prompts[] = {1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5},
                         chunks[] = {1, 3, 16, 17, 64};
    struct kv_spec full;
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    for (int i = 0; i < 5; i++)
        for (int p = 0; p < 5; p++) {
            struct rig g;
            struct feed f;
            struct kv_cache c;
            struct kv_ledger l = {0};
            window_rig(&g, WINDOW);
            const int64_t n = prompts[i] + 2 * WINDOW + 3;
            feed_init(&f, &g, n, 5);
            assert_int_equal(kv_open(&c, &full, &g.shape, g.ops, 0, prompts[i], n), 0);
            rig_feed(&g, &c, &f, prompts[i], chunks[p]);
            rig_feed(&g, &c, &f, n - 4, 1);
            rig_feed(&g, &c, &f, n, 4); /* rows of a question, read together */
            for (int64_t t = 0; t < n; t++)
                check_row(&g, &f, t, WINDOW);
            kv_bytes(&c, &l);
            assert_int_equal(kv_ledger_total(&l), shape_full_bytes(&g.shape, n));
            assert_int_equal(rig_used(&g), shape_full_bytes(&g.shape, n));
            kv_close(&c);
            feed_free(&f);
            rig_free(&g);
        }
    kv_spec_free(&full);
}

/* Two sequences go on behind one frozen prompt; each has its own rows, the prompt is held once. */
static void windows_are_shared(void **state)
{
    (void)state;
    static const int64_t prompts[] = {WINDOW - 3, WINDOW, 2 * WINDOW + 7};
    struct kv_spec full;
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    for (int i = 0; i < 3; i++) {
        struct rig g;
        struct feed f;
        struct kv_cache prompt, fork[2];
        struct kv_dense *d;
        struct kv_ledger l = {0}, told;
        window_rig(&g, WINDOW);
        const int64_t n0 = prompts[i], n = n0 + 2 * WINDOW + 5;
        feed_init(&f, &g, n, 7);
        assert_int_equal(kv_open(&prompt, &full, &g.shape, g.ops, 0, n0, n0), 0);
        rig_feed(&g, &prompt, &f, n0, 11);
        assert_int_equal(kv_freeze(&prompt, &d), 0);
        for (int k = 0; k < 2; k++)
            assert_int_equal(kv_fork(&fork[k], &full, &g.shape, g.ops, 0, d, n), 0);
        kv_close(&prompt);
        kv_dense_unref(d, g.ops);
        rig_feed(&g, &fork[0], &f, n, 1);
        for (int64_t t = 0; t < n; t++)
            check_row(&g, &f, t, WINDOW);
        memset(f.out + (size_t)n0 * f.q_row, 0, (size_t)(n - n0) * f.q_row * sizeof *f.out);
        rig_feed(&g, &fork[1], &f, n, WINDOW + 2);
        for (int64_t t = n0; t < n; t++)
            check_row(&g, &f, t, WINDOW);
        kv_bytes(&fork[0], &l);
        const uint64_t shared = shape_full_bytes(&g.shape, n0), own = shape_full_bytes(&g.shape, n - n0);
        assert_int_equal(l.shared, shared);
        assert_int_equal(kv_ledger_total(&l), shared + own);
        assert_int_equal(rig_used(&g), shared + 2 * own);
        assert_int_equal(kv_predict(&full, &g.shape, n0, n, &told), 0);
        assert_int_equal(kv_ledger_total(&told), shared + own);
        kv_close(&fork[0]);
        kv_close(&fork[1]);
        feed_free(&f);
        rig_free(&g);
    }
    kv_spec_free(&full);
}

static void put_state(const struct kv_cache *c, float value)
{
    struct tensor t = kv_state(c, 1);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        c->ops->copy(c->ops, (float *)t.data + i, &value, sizeof value);
}

static float get_state(const struct kv_cache *c)
{
    struct tensor t = kv_state(c, 1);
    float value;
    c->ops->copy(c->ops, &value, (const float *)t.data + tensor_count(&t) - 1, sizeof value);
    assert_int_equal(c->ops->sync(c->ops), 0);
    return value;
}

/* A state begins with zeros, is copied for every fork, stands in the ledger and in predictions. */
static void states(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape s;
    struct kv_spec full;
    struct kv_cache prompt, fork[2];
    struct kv_dense *d;
    struct kv_ledger l = {0}, told = {0};
    rig_init(&g, 4, 2, 32, DT_F16);
    make_hybrid(&s, &g);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_open(&prompt, &full, &s, g.ops, 4, 9, 9), 0);
    assert_true(get_state(&prompt) == 0);
    put_state(&prompt, 3);
    assert_int_equal(kv_advance(&prompt, 9), 0);
    assert_int_equal(kv_advance(&prompt, 1), ERR_INTERNAL);
    ops_fail_alloc(g.ops, 2);
    assert_int_equal(kv_freeze(&prompt, &d), ERR_NOMEM);
    assert_int_equal(rig_used(&g), kind_state_bytes(&s.kind[2]));
    assert_int_equal(kv_freeze(&prompt, &d), 0);
    put_state(&prompt, 4);
    for (int k = 0; k < 2; k++)
        assert_int_equal(kv_fork(&fork[k], &full, &s, g.ops, 4, d, 20), 0);
    kv_close(&prompt);
    kv_dense_unref(d, g.ops);
    put_state(&fork[0], 5);
    assert_true(get_state(&fork[0]) == 5 && get_state(&fork[1]) == 3 && fork[1].n == 9);
    kv_bytes(&fork[0], &l);
    assert_int_equal(l.bytes[MEM_STATE][PLACE_DEVICE], kind_state_bytes(&s.kind[2]));
    assert_int_equal(kv_ledger_total(&l), kind_state_bytes(&s.kind[2]));
    assert_int_equal(kv_predict_layer(&full, &s, 4, 9, 20, &told), 0);
    assert_memory_equal(&told, &l, sizeof l);
    kv_close(&fork[0]);
    kv_close(&fork[1]);
    kv_spec_free(&full);
    rig_free(&g);
}

/* Every method, also where layers differ: a prediction is the sum over all layers. */
static void predictions_are_sums(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape shape[2];
    rig_init(&g, 4, 2, 64, DT_F16);
    shape_alike(&shape[0], 3, &g.shape.kind[0]);
    shape[0].dtype = DT_F16;
    make_hybrid(&shape[1], &g);
    for (int i = 0; kv_method_at(i); i++)
        for (int k = 0; k < 2; k++) {
            struct kv_spec s;
            struct kv_ledger all, sum = {0};
            assert_int_equal(kv_spec_parse(&s, kv_method_name(kv_method_at(i))), 0);
            assert_int_equal(kv_spec_check(&s, &shape[k]), 0);
            assert_int_equal(kv_predict(&s, &shape[k], 700, 800, &all), 0);
            for (int32_t y = 0; y < shape[k].n_layer; y++)
                assert_int_equal(kv_predict_layer(&s, &shape[k], y, 700, 800, &sum), 0);
            assert_memory_equal(&all, &sum, sizeof sum);
            kv_spec_free(&s);
        }
    rig_free(&g);
}

/* On a hybrid a method acts on the layers that keep all tokens: their budgets are the sequence's, the true
 * ratio is that of all layers. Without such layers there is nothing to compress. */
static void methods_on_hybrids(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape s, recurrent;
    struct kv_spec stream, full;
    struct kv_cache c[5];
    struct kv_ledger l = {0};
    struct kv_budgets b;
    rig_init(&g, 4, 2, 32, DT_F16);
    make_hybrid(&s, &g);
    assert_int_equal(kv_spec_parse(&stream, "streaming:init=4,local=60"), 0);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(kv_open(&c[i], &stream, &s, g.ops, i, 900, 1000), 0);
        assert_string_equal(kv_method_name(c[i].method), i == 0 || i == 3 ? "streaming" : "full");
        c[i].n = 1000;
        kv_bytes(&c[i], &l);
    }
    kv_seq_budgets(c, 5, &b);
    assert_true(b.value[KV_KEPT_TOKENS] == 64 && b.value[KV_N_LOCAL] == 60 && isnan(b.value[KV_TOPK]));
    assert_near(b.value[KV_TRUE_RATIO], (double)shape_full_bytes(&s, 1000) / (double)kv_ledger_total(&l),
                1e-12);
    for (int i = 0; i < 5; i++)
        kv_close(&c[i]);
    assert_int_equal(kv_prefill_key(&stream, 900, &s), kv_prefill_key(&stream, 900, &g.shape));
    shape_alike(&recurrent, 3, &s.kind[2]);
    assert_int_equal(kv_prefill_key(&stream, 900, &recurrent), 0);
    assert_int_equal(kv_spec_check(&full, &recurrent), 0);
    assert_int_equal(kv_spec_check(&stream, &recurrent), ERR_INPUT);
    assert_non_null(strstr(err_text(), "nothing to compress"));
    kv_spec_free(&stream);
    kv_spec_free(&full);
    rig_free(&g);
}

/* Layers that are named stay full: in opened caches, in the ledger, in predictions and in keys. */
static void skipped_layers(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape s;
    rig_init(&g, 4, 2, 64, DT_F16);
    make_hybrid(&s, &g);
    for (int i = 0; kv_method_at(i); i++) {
        struct kv_spec skip, all;
        struct kv_ledger l = {0}, told;
        struct kv_cache c[5];
        char *text = mem_printf("%s:skip_layers=0", kv_method_name(kv_method_at(i)));
        assert_int_equal(kv_spec_parse(&all, kv_method_name(kv_method_at(i))), 0);
        if (kv_spec_plain(&all)) {
            kv_spec_free(&all);
            free(text);
            continue;
        }
        assert_int_equal(kv_spec_parse(&skip, text), 0);
        assert_int_equal(kv_spec_check(&skip, &s), 0);
        for (int y = 0; y < 5; y++) {
            assert_int_equal(kv_open(&c[y], &skip, &s, g.ops, y, 0, 300), 0);
            assert_true((strcmp(kv_method_name(c[y].method), "full") == 0) == (y != 3));
            assert_true(kv_spec_acts(&skip, &s, y) == (y == 3) &&
                        kv_spec_acts(&all, &s, y) == (y == 0 || y == 3));
            kv_bytes(&c[y], &l);
        }
        assert_int_equal(kv_predict(&skip, &s, 0, 300, &told), 0);
        assert_memory_equal(&told, &l, sizeof l);
        assert_int_equal(kv_spec_acted_bytes(&skip, &s, 300), shape_layer_bytes(&s, 3, 300));
        const uint64_t mine = kv_prefill_key(&skip, 900, &s), other = kv_prefill_key(&all, 900, &s);
        assert_true(other ? mine && mine != other : !mine);
        for (int y = 0; y < 5; y++)
            kv_close(&c[y]);
        kv_spec_free(&skip);
        kv_spec_free(&all);
        free(text);
    }
    rig_free(&g);
}

static void check_refused(const char *text, const struct seq_shape *shape, const char *says)
{
    struct kv_spec spec;
    assert_int_equal(kv_spec_parse(&spec, text), 0);
    assert_int_equal(kv_spec_check(&spec, shape), ERR_INPUT);
    if (!strstr(err_text(), says))
        fail_msg("%s: %s", text, err_text());
    kv_spec_free(&spec);
}

static void layers_refused(void **state)
{
    (void)state;
    struct rig g;
    struct seq_shape s, windows;
    rig_init(&g, 4, 2, 64, DT_F16);
    make_hybrid(&s, &g);
    shape_alike(&windows, 3, &s.kind[1]);
    check_refused("kivi:skip_layers=0;3", &s, "skip_layers leaves no layer");
    check_refused("kivi:skip_layers=5", &s, "names layer 5; the model has layers 0 to 4");
    check_refused("kivi", &windows, "windows of up to 16: there is nothing to compress, and it cannot");
    check_refused("streaming", &windows, "nothing to compress without window_layers=1");
    check_refused("streaming:window_layers=1,when=after", &windows, "not allowed with when=after");
    check_refused("streaming:window_layers=1,skip_layers=0-2", &windows, "skip_layers leaves no layer");
    rig_free(&g);
}

/* What row p of head 0 must be if it sees the last n_local keys and the first n_init. */
static void check_sinks(const struct rig *g, const struct feed *f, int64_t p, int64_t n_init, int64_t n_local)
{
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k;
    const float *q = f->q + p * H * d;
    double out[64] = {0}, sum = 0;
    for (int64_t j = 0; j <= p; j++) {
        if (j < p - n_local + 1 && j >= n_init)
            continue;
        const float *key = f->k + j * Hk * d, *v = f->v + j * Hk * d;
        double dot = 0;
        for (int64_t c = 0; c < d; c++)
            dot += (double)q[c] * (double)key[c];
        double e = exp(dot / sqrt((double)d));
        sum += e;
        for (int64_t c = 0; c < d; c++)
            out[c] += e * (double)v[c];
    }
    for (int64_t c = 0; c < d; c++)
        if (!(fabs((double)f->out[p * H * d + c] - out[c] / sum) <= 2e-5))
            fail_msg("row %d of %d sinks and %d near ones", (int)p, (int)n_init, (int)n_local);
}

/* StreamingLLM in layers with a window: shares are of what the window would hold, sinks and near tokens have
 * places in it, and no row sees beyond it. */
static void streaming_in_windows(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n_prompt, n_init, n_local;
    } rows[] = {
        {"streaming:window_layers=1,keep=0.5,init_share=0.25", 61, 2, 6}, /* of 16 */
        {"streaming:window_layers=1,keep=0.5,init_share=0.25", 12, 1, 5}, /* of 12 */
        {"streaming:window_layers=1,init=4,local=8", 61, 4, 8},
        {"streaming:window_layers=1,init=4,local=14", 61, 2, 14},
        {"streaming:window_layers=1,init=4,local=100", 61, 0, WINDOW},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int64_t chunk = 1; chunk < 100; chunk += 16) {
            struct rig g;
            struct feed f;
            struct kv_spec spec;
            struct kv_cache c;
            struct kv_budgets b;
            struct kv_ledger l = {0}, told;
            const int64_t n_prompt = rows[i].n_prompt, n = n_prompt + 2 * WINDOW + 3;
            window_rig(&g, WINDOW);
            feed_init(&f, &g, n, 9);
            assert_int_equal(kv_spec_parse(&spec, rows[i].text), 0);
            assert_int_equal(kv_spec_check(&spec, &g.shape), 0);
            assert_true(needs_own_pass(&spec, n_prompt, &g.shape));
            assert_int_equal(kv_open(&c, &spec, &g.shape, g.ops, 0, n_prompt, n), 0);
            rig_feed(&g, &c, &f, n_prompt, chunk);
            rig_feed(&g, &c, &f, n, 1);
            for (int64_t t = 0; t < n; t++)
                check_sinks(&g, &f, t, rows[i].n_init, rows[i].n_local);
            kv_seq_budgets(&c, 1, &b);
            assert_near(b.value[KV_N_INIT], (double)rows[i].n_init, 0);
            assert_near(b.value[KV_KEPT_TOKENS], (double)(rows[i].n_init + rows[i].n_local), 0);
            kv_bytes(&c, &l);
            assert_int_equal(kv_predict(&spec, &g.shape, n_prompt, n, &told), 0);
            assert_memory_equal(&told, &l, sizeof l);
            kv_close(&c);
            kv_spec_free(&spec);
            feed_free(&f);
            rig_free(&g);
        }
}

/* Keys and values [n,Hk,d] as a cache of all tokens quantises them, expanded. */
static void expand(const struct kv_cache *all, int64_t n, bool inverse, float *out[2])
{
    struct kv_dump d[KV_DUMP_MAX];
    int n_dump = 0;
    const int64_t values = n * all->kind->n_kv_head * all->kind->d_k;
    assert_int_equal(kv_dump(all, d, &n_dump), 0);
    for (int i = 0; i < 2; i++) {
        const uint8_t *code = dump_find(d, n_dump, i ? "v_codes" : "k_codes")->data;
        const uint16_t *scale = dump_find(d, n_dump, i ? "v_scale" : "k_scale")->data;
        const uint16_t *min = dump_find(d, n_dump, i ? "v_min" : "k_min")->data;
        out[i] = mem_alloc((size_t)values, sizeof(float));
        for (int64_t j = 0; j < values; j++)
            out[i][j] = (inverse ? (float)code[j] / f16_to_f32(scale[j / 16])
                                 : (float)code[j] * f16_to_f32(scale[j / 16])) +
                        f16_to_f32(min[j / 16]);
    }
    dump_free(d, n_dump);
}

/* What row p of head 0 must be over its window, where the keys [from, to) are those of `coded`. */
static void check_coded(const struct rig *g, const struct feed *f, float *const coded[2], int64_t p,
                        int64_t from, int64_t to)
{
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k;
    const float *q = f->q + p * H * d;
    double out[64] = {0}, sum = 0;
    for (int64_t j = p - WINDOW + 1 > 0 ? p - WINDOW + 1 : 0; j <= p; j++) {
        const bool is = j >= from && j < to;
        const float *key = (is ? coded[0] : f->k) + j * Hk * d, *v = (is ? coded[1] : f->v) + j * Hk * d;
        double dot = 0;
        for (int64_t c = 0; c < d; c++)
            dot += (double)q[c] * (double)key[c];
        double e = exp(dot / sqrt((double)d));
        sum += e;
        for (int64_t c = 0; c < d; c++)
            out[c] += e * (double)v[c];
    }
    for (int64_t c = 0; c < d; c++)
        if (!(fabs((double)f->out[p * H * d + c] - out[c] / sum) <= 4e-3))
            fail_msg("row %d: %g, not %g", (int)p, (double)f->out[p * H * d + c], out[c] / sum);
}

/* A cache after its prompt, of a pass of its own or a fork, then decode steps and a question read at once. */
static void run_coded(struct rig *g, struct feed *f, const struct kv_spec *spec, struct kv_cache *c,
                      int64_t n_prompt, int64_t n, int64_t chunk)
{
    assert_int_equal(rig_prompt(g, c, spec, f, n_prompt, n, chunk), 0);
    rig_feed(g, c, f, n - 70, 1);
    rig_feed(g, c, f, n, 70);
}

/* FlexGen's codes in layers with a window: a ring, over whose end prompts, chunks and decode steps go. */
static void flexgen_in_windows(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "flexgen:group=16,window_layers=1", "flexgen:group=16,when=after,window_layers=1",
        "flexgen:group=16,when=decode,window_layers=1", "flexgen-upstream:group=16,window_layers=1",
        "flexgen-upstream:group=16,when=prefill,window_layers=1"};
    static const int64_t prompts[] = {5, WINDOW, 3 * WINDOW + 5, 130};
    for (size_t i = 0; i < sizeof texts / sizeof *texts * 4; i++) {
        struct rig g;
        struct feed f;
        struct kv_spec spec;
        struct kv_cache c, all;
        struct kv_ledger l = {0}, told;
        float *coded[2];
        const char *text = texts[i / 4];
        const int64_t n_prompt = prompts[i % 4], n = n_prompt + 200;
        const bool after = strstr(text, "after") || (strstr(text, "upstream") && !strstr(text, "when")),
                   decode = strstr(text, "decode"), own = strstr(text, "upstream");
        window_rig(&g, 0);
        feed_init(&f, &g, n, 11);
        assert_int_equal(kv_spec_parse(&spec, "flexgen:group=16"), 0);
        if (own) {
            kv_spec_free(&spec);
            assert_int_equal(kv_spec_parse(&spec, "flexgen-upstream:group=16,when=prefill"), 0);
        }
        assert_int_equal(kv_open(&all, &spec, &g.shape, g.ops, 0, n, n), 0);
        rig_feed(&g, &all, &f, n, 64);
        expand(&all, n, own, coded);
        kv_close(&all);
        kv_spec_free(&spec);
        g.shape.kind[0] = kind_attention(4, 2, 16, WINDOW);
        assert_int_equal(kv_spec_parse(&spec, text), 0);
        assert_int_equal(kv_spec_check(&spec, &g.shape), 0);
        run_coded(&g, &f, &spec, &c, n_prompt, n, 1 + 40 * (int64_t)(i % 3));
        for (int64_t p = 0; p < n; p++) {
            const bool plain = p < n_prompt && (after || decode);
            check_coded(&g, &f, coded, p, decode ? n_prompt : 0, plain ? 0 : own ? p : p + 1);
        }
        kv_bytes(&c, &l);
        assert_int_equal(kv_predict(&spec, &g.shape, n_prompt, n, &told), 0);
        assert_int_equal(kv_ledger_total(&told), kv_ledger_total(&l));
        assert_true(decode || kv_ledger_total(&l) < shape_full_bytes(&g.shape, n) * 3);
        kv_close(&c);
        kv_spec_free(&spec);
        free(coded[0]);
        free(coded[1]);
        feed_free(&f);
        rig_free(&g);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_shapes),
        cmocka_unit_test(flops),
        cmocka_unit_test(windows),
        cmocka_unit_test(windows_are_shared),
        cmocka_unit_test(states),
        cmocka_unit_test(predictions_are_sums),
        cmocka_unit_test(methods_on_hybrids),
        cmocka_unit_test(skipped_layers),
        cmocka_unit_test(layers_refused),
        cmocka_unit_test(streaming_in_windows),
        cmocka_unit_test(flexgen_in_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
