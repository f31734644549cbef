/* The rules of kivi and streaming, computed here a second time from their definitions (arXiv 2402.02750,
 * 2309.17453, and the code of arXiv 2407.01527): step by step bookkeeping, double precision, no shared code.
 */
#include "kv_rig.h"

/* ------------------------------------------------------------------ kivi */

/* Nearest half, ties to even; the values here are far from overflow. */
static double half(double x)
{
    if (x == 0)
        return 0;
    int e = ilogb(x);
    double unit = ldexp(1, (e < -14 ? -14 : e) - 10);
    return rint(x / unit) * unit;
}

static double half_bits(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

static double element(const struct tensor *t, int64_t i)
{
    return t->dtype == DT_F32 ? (double)((const float *)t->data)[i]
                              : half_bits(((const uint16_t *)t->data)[i]);
}

struct group {
    double scale, min;
    int code[128];
};

static struct group quantise(const struct tensor *t, int64_t at, int64_t stride, int n, int bits)
{
    struct group g = {0};
    double x[128], max = -INFINITY, top = (1 << bits) - 1;
    g.min = INFINITY;
    for (int i = 0; i < n; i++) {
        x[i] = half(element(t, at + i * stride));
        g.min = fmin(g.min, x[i]);
        max = fmax(max, x[i]);
    }
    g.scale = half(half(max - g.min) / top);
    for (int i = 0; i < n; i++)
        g.code[i] = g.scale == 0 ? 0 : (int)rint(fmin(fmax(half(half(x[i] - g.min) / g.scale), 0), top));
    return g;
}

/* What the cache should hold after n tokens. */
struct book {
    int64_t n_kq, n_kf, n_vq, n_vf;
};

static struct book book_prompt(int64_t T, int64_t R)
{
    struct book b = {0, T, 0, T};
    if (T >= R && T % R == 0)
        b = (struct book){T, 0, 0, T};
    else if (T >= R)
        b = (struct book){T - T % R, T % R, 0, T};
    if (T > R) {
        b.n_vq = T - R;
        b.n_vf = R;
    }
    return b;
}

static void book_step(struct book *b, int64_t R)
{
    if (++b->n_kf == R) {
        b->n_kq += R;
        b->n_kf = 0;
    }
    if (++b->n_vf > R) {
        b->n_vq++;
        b->n_vf = R;
    }
}

struct kivi_case {
    const struct rig *g;
    const struct kv_dense *all; /* rotated keys and values of every token */
    int bits, group;
    int64_t base; /* tokens that stay exact before the rule begins (when=decode) */
};

static void check_group(const struct group *want, const struct kv_dump *codes, int64_t at, int64_t stride,
                        int n, const struct kv_dump *scale, const struct kv_dump *min, int64_t group)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(((const uint8_t *)codes->data)[at + i * stride], want->code[i]);
    assert_near(half_bits(((const uint16_t *)scale->data)[group]), want->scale, 0);
    assert_near(half_bits(((const uint16_t *)min->data)[group]), want->min, 0);
}

static void check_kivi(const struct kivi_case *k, const struct kv_cache *c, const struct book *b)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    const int64_t d_row = k->g->shape.kind[0].n_kv_head * k->g->shape.kind[0].d_k;
    const size_t row = (size_t)d_row * dtype_bytes(k->g->shape.dtype);
    assert_int_equal(kv_dump(c, d, &n), 0);
    const struct kv_dump *kc = dump_find(d, n, "k_codes"), *ks = dump_find(d, n, "k_scale");
    const struct kv_dump *vc = dump_find(d, n, "v_codes"), *vs = dump_find(d, n, "v_scale");
    const struct kv_dump *kw = dump_find(d, n, "k_window"), *vw = dump_find(d, n, "v_window");
    assert_int_equal(kc->n[0], b->n_kq);
    assert_int_equal(vc->n[0], b->n_vq);
    assert_int_equal(kw->n[0], b->n_kf);
    assert_int_equal(vw->n[0], b->n_vf);
    assert_int_equal(ks->n[0], b->n_kq / k->group);
    for (int64_t i = 0; i < b->n_kq / k->group * d_row; i++) {
        int64_t at = i / d_row * k->group * d_row + i % d_row;
        struct group want = quantise(&k->all->k, at, d_row, k->group, k->bits);
        check_group(&want, kc, at, d_row, k->group, ks, dump_find(d, n, "k_min"), i);
    }
    for (int64_t i = 0; i < b->n_vq * d_row / k->group; i++) {
        struct group want = quantise(&k->all->v, i * k->group, 1, k->group, k->bits);
        check_group(&want, vc, i * k->group, 1, k->group, vs, dump_find(d, n, "v_min"), i);
    }
    assert_memory_equal(kw->data, (const char *)k->all->k.data + (size_t)b->n_kq * row,
                        (size_t)b->n_kf * row);
    assert_memory_equal(vw->data, (const char *)k->all->v.data + (size_t)b->n_vq * row,
                        (size_t)b->n_vf * row);
    dump_free(d, n);
}

/* Values as attention sees them: dequantised in `n_coded` tokens from `base` on, else exact. [n,Hk,d] */
static double *values_seen(const struct kivi_case *k, const struct tensor *t, bool keys, int64_t n_coded,
                           int64_t n)
{
    const int64_t row = t->n[1] * t->n[2], from = k->base * row;
    double *out = mem_alloc((size_t)(n * row), sizeof *out);
    for (int64_t i = 0; i < n * row; i++)
        out[i] = element(t, i);
    for (int64_t g = 0; g < n_coded * row / k->group; g++) {
        int64_t at = from + (keys ? g / row * k->group * row + g % row : g * k->group);
        int64_t stride = keys ? row : 1;
        struct group q = quantise(t, at, stride, k->group, k->bits);
        for (int i = 0; i < k->group; i++)
            out[at + i * stride] = q.scale * q.code[i] + q.min;
    }
    return out;
}

/* Query at position p over all n = p + 1 keys, in double; q raw. */
static void check_attention(const struct kivi_case *k, const struct feed *f, int64_t p,
                            const struct book *before)
{
    const struct layer_kind *s = &k->g->shape.kind[0];
    const int64_t d = s->d_k, n = p + 1, row = s->n_kv_head * d;
    double *key = values_seen(k, &k->all->k, true, before->n_kq, n);
    double *val = values_seen(k, &k->all->v, false, before->n_vq, n);
    double *w = mem_alloc((size_t)n, sizeof *w);
    for (int64_t h = 0; h < s->n_head; h++) {
        const float *q = f->q + (p * s->n_head + h) * d;
        int64_t hk = h / (s->n_head / s->n_kv_head);
        double sum = 0;
        for (int64_t j = 0; j < n; j++) {
            double dot = 0;
            for (int64_t i = 0; i < d / 2; i++) {
                double a = (double)((float)p * k->g->inv_freq[i]), x = (double)q[i], y = (double)q[i + d / 2];
                dot += (x * cos(a) - y * sin(a)) * key[j * row + hk * d + i];
                dot += (y * cos(a) + x * sin(a)) * key[j * row + hk * d + i + d / 2];
            }
            sum += w[j] = exp(dot / sqrt((double)d));
        }
        for (int64_t i = 0; i < d; i++) {
            double o = 0;
            for (int64_t j = 0; j < n; j++)
                o += w[j] / sum * val[j * row + hk * d + i];
            assert_near((double)f->out[(p * s->n_head + h) * d + i], o, 2e-5);
        }
    }
    free(key);
    free(val);
    free(w);
}

static void kivi_case(int bits, int group, int residual, enum dtype dtype)
{
    struct rig g;
    struct feed f;
    struct kv_spec full, kivi;
    struct kv_cache plain, c;
    rig_init(&g, 2, 1, 32, dtype);
    feed_init(&f, &g, 303, 21);
    f.k[5] = f.k[5 + 32] = 0.5f; /* a little structure: equal neighbours */
    char *text = mem_printf("kivi:bits=%d,group=%d,residual=%d", bits, group, residual);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_spec_parse(&kivi, text), 0);
    assert_int_equal(kv_open(&plain, &full, &g.shape, g.ops, 0, f.n, f.n), 0);
    rig_feed(&g, &plain, &f, f.n, 512);
    struct kv_dense *dense;
    assert_int_equal(kv_freeze(&plain, &dense), 0);
    struct kivi_case k = {&g, dense, bits, group, 0};
    for (int64_t T = 0; T <= 300; T++) {
        struct kv_dense prompt = *dense; /* its first T tokens */
        prompt.n = T;
        struct book b = book_prompt(T, residual);
        assert_int_equal(kv_fork(&c, &kivi, &g.shape, g.ops, 0, &prompt, f.n), 0);
        check_kivi(&k, &c, &b);
        int64_t n_steps = T == 0 ? f.n : 3; /* the whole way once */
        for (int64_t i = 0; i < n_steps; i++) {
            struct book before = b;
            assert_int_equal(rig_step(&g, &c, &f, 1), 0);
            book_step(&b, residual);
            if (T || i % 16 == 15 || i % 32 == 0)
                check_kivi(&k, &c, &b);
            if ((T % 32 <= 1 && T) || (i + T) % 64 == 0)
                check_attention(&k, &f, T + i, &before);
        }
        kv_close(&c);
    }
    kv_dense_unref(dense, g.ops);
    kv_close(&plain);
    kv_spec_free(&full);
    kv_spec_free(&kivi);
    free(text);
    feed_free(&f);
    rig_free(&g);
}

static void kivi_2_bit(void **state)
{
    (void)state;
    kivi_case(2, 32, 128, DT_F32);
}

static void kivi_4_bit(void **state)
{
    (void)state;
    kivi_case(4, 32, 128, DT_F16);
}

static void kivi_other_sizes(void **state)
{
    (void)state;
    kivi_case(4, 16, 48, DT_F32);
}

/* The rule of decode rows from the first prompt row on (prefill), or from the first generated one (decode).
 */
static void kivi_when(const char *text, bool decode, int bits, int group, int residual)
{
    struct rig g;
    struct feed f;
    struct kv_spec full, kivi;
    struct kv_cache plain, c;
    const int64_t n_prompt = decode ? 90 : 330;
    rig_init(&g, 2, 1, 32, DT_F32);
    feed_init(&f, &g, n_prompt + 150, 23);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_spec_parse(&kivi, text), 0);
    assert_int_equal(kv_open(&plain, &full, &g.shape, g.ops, 0, f.n, f.n), 0);
    rig_feed(&g, &plain, &f, f.n, 512);
    struct kv_dense *dense;
    assert_int_equal(kv_freeze(&plain, &dense), 0);
    struct kv_dense ruled = *dense;
    const int64_t base = decode ? n_prompt : 0;
    ruled.k = tensor_rows(&dense->k, base, f.n - base);
    ruled.v = tensor_rows(&dense->v, base, f.n - base);
    struct kivi_case k = {&g, dense, bits, group, base}, state = {&g, &ruled, bits, group, 0};
    assert_int_equal(rig_prompt(&g, &c, &kivi, &f, n_prompt, f.n, 100), 0);
    rig_feed(&g, &c, &f, n_prompt + 100, 50);
    rig_feed(&g, &c, &f, f.n, 1);
    struct book b = {0};
    for (int64_t p = base; p < f.n; p++) {
        if (p % 5 == 0 || p % residual <= 1 || p % residual == residual - 1)
            check_attention(&k, &f, p, &b);
        book_step(&b, residual);
    }
    check_kivi(&state, &c, &b);
    assert_true(b.n_kq > 0 && b.n_vq > 0);
    kv_close(&c);
    kv_dense_unref(dense, g.ops);
    kv_close(&plain);
    kv_spec_free(&full);
    kv_spec_free(&kivi);
    feed_free(&f);
    rig_free(&g);
}

static void kivi_inside_the_prompt(void **state)
{
    (void)state;
    kivi_when("kivi:when=prefill", false, 2, 32, 128);
    kivi_when("kivi:bits=4,group=16,residual=48,when=prefill", false, 4, 16, 48);
}

static void kivi_only_while_decoding(void **state)
{
    (void)state;
    kivi_when("kivi:when=decode", true, 2, 32, 128);
    kivi_when("kivi:bits=4,group=16,residual=48,when=decode", true, 4, 16, 48);
}

/* ------------------------------------------------------------------ streaming */

struct stream_case {
    int64_t n_prompt, n, n_init, n_local, chunk;
    bool after; /* plain prompt pass */
};

/* Angle between a query that stands `dist` after a key, pair i. */
static double turned(const struct rig *g, const float *q, const float *k, int64_t q_pos, int64_t k_pos)
{
    const int64_t half_d = g->shape.kind[0].d_k / 2;
    double dot = 0;
    for (int64_t i = 0; i < half_d; i++) {
        double a = (double)(q_pos - k_pos) * (double)g->inv_freq[i];
        double x = (double)q[i], y = (double)q[i + half_d], u = (double)k[i], v = (double)k[i + half_d];
        dot += (x * u + y * v) * cos(a) + (x * v - y * u) * sin(a);
    }
    return dot / sqrt((double)g->shape.kind[0].d_k);
}

/* The closed form for position p and head h; out [d]. */
static void closed_form(const struct rig *g, const struct feed *f, const struct stream_case *s, int64_t p,
                        int64_t h, double *out)
{
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k,
                  hk = h / (H / Hk);
    const float *q = f->q + (p * H + h) * d;
    double sum = 0;
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t j = 0; j <= p; j++) {
        const float *k = f->k + (j * Hk + hk) * d, *v = f->v + (j * Hk + hk) * d;
        double w = 0;
        if (p - j < s->n_local || (s->after && p < s->n_prompt))
            w = exp(turned(g, q, k, p, j));
        else if (j < s->n_init)
            w = exp(turned(g, q, k, s->n_local + s->n_init - 1, j));
        sum += w;
        for (int64_t i = 0; i < d; i++)
            out[i] += w * (double)v[i];
    }
    for (int64_t i = 0; i < d; i++)
        out[i] /= sum;
}

static void check_stream(const struct stream_case *s, uint64_t seed)
{
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    double want[8];
    rig_init(&g, 2, 1, 8, DT_F32);
    feed_init(&f, &g, s->n, seed);
    char *text = mem_printf("streaming:init=%d,local=%d%s", (int)s->n_init, (int)s->n_local,
                            s->after ? ",when=after" : "");
    assert_int_equal(kv_spec_parse(&spec, text), 0);
    assert_int_equal(rig_prompt(&g, &c, &spec, &f, s->n_prompt, s->n, s->chunk), 0);
    rig_feed(&g, &c, &f, s->n, seed % 3 ? 1 : 5);
    for (int64_t p = 0; p < s->n; p++)
        for (int64_t h = 0; h < 2; h++) {
            closed_form(&g, &f, s, p, h, want);
            for (int64_t i = 0; i < 8; i++)
                if (fabs((double)f.out[(p * 2 + h) * 8 + i] - want[i]) > 5e-5)
                    fail_msg("prompt %d of %d, init %d, local %d, chunk %d: position %d", (int)s->n_prompt,
                             (int)s->n, (int)s->n_init, (int)s->n_local, (int)s->chunk, (int)p);
        }
    kv_close(&c);
    kv_spec_free(&spec);
    free(text);
    feed_free(&f);
    rig_free(&g);
}

static void streaming_closed_form(void **state)
{
    (void)state;
    static const struct stream_case corners[] = {
        {100, 120, 0, 1, 64, false},   {100, 120, 0, 1, 1, false},    {100, 120, 5, 1, 64, false},
        {100, 120, 1, 99, 64, false},  {100, 120, 1, 100, 64, false}, {100, 120, 3, 101, 64, false},
        {100, 120, 40, 7, 16, false},  {100, 120, 200, 7, 16, false}, {100, 120, 119, 3, 9, false},
        {100, 120, 120, 3, 9, false},  {1, 20, 2, 3, 1, false},       {100, 100, 2, 64, 64, false},
        {20, 120, 30, 40, 8, false},   {20, 120, 30, 10, 8, false},   {100, 120, 4, 119, 7, false},
        {100, 120, 4, 120, 7, false},  {100, 120, 4, 30, 16, true},   {100, 120, 4, 1, 16, true},
        {100, 110, 105, 20, 16, true},
    };
    for (size_t i = 0; i < sizeof corners / sizeof corners[0]; i++)
        check_stream(&corners[i], i);
    uint64_t seed = 77;
    for (int i = 0; i < 120; i++) {
        struct stream_case s = {.n = 2 + rig_random(&seed) % 150};
        s.n_prompt = 1 + rig_random(&seed) % (s.n - 1);
        s.n_init = rig_random(&seed) % (i % 4 ? 9 : s.n + 20);
        s.n_local = 1 + rig_random(&seed) % (i % 2 ? 12 : s.n + 20);
        s.chunk = 1 + rig_random(&seed) % 40;
        s.after = i % 3 == 0;
        check_stream(&s, (uint64_t)i);
    }
}

/* Budgets as the reference's Python computes them (doubles, int() cuts). */
static void streaming_budgets(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t T, n_init, n_local;
    } rows[] = {
        {"streaming:ratio=2", 10000, 105, 4895},
        {"streaming:ratio=4", 10000, 52, 2448},
        {"streaming:ratio=6", 10000, 35, 1665},
        {"streaming:ratio=8", 10000, 26, 1224},
        {"streaming:keep=0.17", 100, 0, 17},
        {"streaming:keep=0.29", 100, 0, 28}, /* 28.999999999999996 */
        {"streaming:ratio=8", 7, 0, 1},
        {"streaming:ratio=2,cap=7500", 31500, 78, 3672},
        {"streaming:ratio=2,cap=7500", 100, 1, 49},
        {"streaming:init=4,local=2044", 50, 4, 2044},
        {"streaming:keep=1,init_share=0", 50, 0, 50},
        {"streaming:keep=1,init_share=1", 50, 50, 1},
    };
    struct rig g;
    rig_init(&g, 2, 1, 8, DT_F16);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        struct kv_cache c;
        struct kv_budgets b;
        assert_int_equal(kv_spec_parse(&s, rows[i].text), 0);
        assert_int_equal(kv_open(&c, &s, &g.shape, g.ops, 0, rows[i].T, rows[i].T + 10), 0);
        kv_get_budgets(&c, &b);
        assert_near(b.value[KV_N_INIT], (double)rows[i].n_init, 0);
        assert_near(b.value[KV_N_LOCAL], (double)rows[i].n_local, 0);
        assert_int_equal(needs_own_pass(&s, rows[i].T, &g.shape), rows[i].n_local < rows[i].T);
        kv_close(&c);
        kv_spec_free(&s);
    }
    rig_free(&g);
}

/* Equal sizes share a prompt pass, different ones do not. */
static void streaming_keys(void **state)
{
    (void)state;
    struct kv_spec a, b, c;
    assert_int_equal(kv_spec_parse(&a, "streaming:ratio=2"), 0);
    assert_int_equal(kv_spec_parse(&b, "streaming:keep=0.5,cap=5000"), 0);
    assert_int_equal(kv_spec_parse(&c, "streaming:init=105,local=4895"), 0);
    assert_true(a.method->prefill_key(a.params, 4000, NULL) == b.method->prefill_key(b.params, 4000, NULL));
    assert_true(a.method->prefill_key(a.params, 9000, NULL) != b.method->prefill_key(b.params, 9000, NULL));
    assert_true(a.method->prefill_key(a.params, 10000, NULL) == c.method->prefill_key(c.params, 10000, NULL));
    kv_spec_free(&a);
    kv_spec_free(&b);
    kv_spec_free(&c);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kivi_2_bit),
        cmocka_unit_test(kivi_4_bit),
        cmocka_unit_test(kivi_inside_the_prompt),
        cmocka_unit_test(kivi_only_while_decoding),
        cmocka_unit_test(kivi_other_sizes),
        cmocka_unit_test(streaming_closed_form),
        cmocka_unit_test(streaming_budgets),
        cmocka_unit_test(streaming_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
