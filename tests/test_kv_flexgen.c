/* flexgen and flexgen-upstream: against an oracle that was transcribed from the upstream sources by somebody
 * who had seen neither this program nor its specification (oracle/flexgen_oracle.py; arrays: the head of
 * oracle/method_fixtures.py), against requantising everything in every step, and against the rule of each
 * `when` in double precision. */
#include "kv_fix.h"

#include "kernels/half.h"

/* ------------------------------------------------------------------ the quantisers on awkward rows */

/* What attention reads for one token's codes: with a single key the output is its value. */
static void read_values(const struct rig *g, const struct quant_args *q, int64_t d, float *out)
{
    struct kv_run run = {.layout = QUANT_TOKEN,
                         .bits = q->bits,
                         .group = q->group,
                         .f16_values = true,
                         .inverse = q->inverse,
                         .data = q->codes,
                         .scale = q->scale,
                         .min = q->min,
                         .n = 1};
    float zero[128] = {0};
    struct attend_args a = {.n_set = 1, .n_kv_head = 1, .scale = 1, .out = {out, DT_F32, {1, 1, d, 1}}};
    a.set[0] =
        (struct attend_set){.q = {zero, DT_F32, {1, 1, d, 1}}, .n_k = 1, .n_v = 1, .dist_max = ATTEND_FAR};
    a.set[0].k[0] = a.set[0].v[0] = run;
    g->ops->attend(g->ops, &a, 1);
}

static bool finite16(uint16_t h)
{
    return (h & 0x7c00) != 0x7c00;
}

struct edge {
    struct array x, codes, scale, min, val;
    int64_t d, group;
    bool inverse;
};

/* Codes above 15 are clamped (flexgen's only): `most` is what that may change. Returns how many there were.
 */
static int check_edge_row(const struct rig *g, const struct edge *e, int64_t row)
{
    uint8_t packed[64];
    uint16_t scale[4], min[4];
    float x[128], value[128];
    int n_above = 0;
    for (int64_t i = 0; i < e->d; i++)
        x[i] = from_half(((const uint16_t *)e->x.data)[row * e->d + i]);
    struct quant_args q = {.layout = QUANT_TOKEN,
                           .bits = 4,
                           .group = (int32_t)e->group,
                           .src = {x, DT_F32, {1, 1, e->d, 1}},
                           .codes = packed,
                           .scale = scale,
                           .min = min,
                           .inverse = e->inverse};
    g->ops->quant(g->ops, &q, 1);
    read_values(g, &q, e->d, value);
    for (int64_t i = 0; i < e->d; i++) {
        int64_t group = i / e->group, at = row * (e->d / e->group) + group;
        uint16_t s = ((const uint16_t *)e->scale.data)[at];
        float val = from_half(((const uint16_t *)e->val.data)[row * e->d + i]);
        int code = ((const uint8_t *)e->codes.data)[row * e->d + i], got = packed[i / 2] >> (i % 2 * 4) & 15;
        assert_int_equal(scale[group], s);
        assert_near((double)from_half(min[group]), (double)from_half(((const uint16_t *)e->min.data)[at]), 0);
        if (e->inverse ? !finite16(s) : s == 0) {
            assert_near((double)value[i], (double)from_half(min[group]), 0);
            continue;
        }
        if (e->inverse ? s == 0 : !finite16(s)) /* a range beyond fp16: NaN, as upstream */
            continue;
        assert_int_equal(got, code < 15 ? code : 15);
        assert_near((double)value[i], (double)val, code > 15 ? 14 * 0x1p-24 : 0);
        n_above += code > 15;
    }
    return n_above;
}

static void quantisers(void **state)
{
    (void)state;
    static const struct {
        int d, group;
        bool inverse;
    } cases[] = {{64, 32, false}, {32, 32, false}, {96, 32, false}, {64, 64, true}};
    struct rig g;
    struct fix file;
    int n_above = 0;
    rig_init(&g, 1, 1, 32, DT_F32);
    fix_open(&file, "flexgen_edge");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char name[5][32];
        static const char *const part[] = {"codes", "scale", "min", "val"};
        const int d = cases[i].d;
        snprintf(name[4], sizeof name[4], "x%d", d);
        for (int k = 0; k < 4; k++)
            snprintf(name[k], sizeof name[k], "%s%d.%s", cases[i].inverse ? "up" : "sim", d, part[k]);
        struct edge e = {.x = fix_get(&file, KIND_F16, name[4], 0),
                         .codes = fix_get(&file, KIND_U8, name[0], 0),
                         .scale = fix_get(&file, KIND_F16, name[1], 0),
                         .min = fix_get(&file, KIND_F16, name[2], 0),
                         .val = fix_get(&file, KIND_F16, name[3], 0),
                         .d = d,
                         .group = cases[i].group,
                         .inverse = cases[i].inverse};
        assert_true(e.x.n[0] > 20 && e.x.n[2] == d);
        for (int64_t row = 0; row < e.x.n[0]; row++)
            n_above += check_edge_row(&g, &e, row);
    }
    assert_true(n_above > 20); /* the corner that cannot be kept is among the rows */
    free(file.bytes);
    rig_free(&g);
}

/* Every subnormal scale there is room for, by hand: unclamped codes pass 15 for k <= 14 alone, stay within
 * 22, and clamping moves a value by at most 14 * 2^-24. */
static void codes_above_the_top(void **state)
{
    (void)state;
    int last_k = 0, highest = 0, most = 0;
    for (int r = 8; r <= 15 * 1024; r++) { /* range, in units of 2^-24 */
        int k = (int)rint(r / 15.0), code = (int)rint((double)f16_round((float)r / (float)k));
        if (code <= 15)
            continue;
        last_k = k;
        highest = code > highest ? code : highest;
        most = (code - 15) * k > most ? (code - 15) * k : most;
    }
    assert_int_equal(last_k, 14);
    assert_int_equal(highest, 22);
    assert_int_equal(most, 14);
}

/* ------------------------------------------------------------------ whole layers against the oracle */

static void check_codes(const struct kv_cache *c, const struct fix *file, const char *kind, int64_t n)
{
    static const char *const part[] = {"codes", "scale", "min"};
    struct kv_dump d[KV_DUMP_MAX];
    int n_dump;
    assert_int_equal(kv_dump(c, d, &n_dump), 0);
    for (int i = 0; i < 6; i++) {
        char name[16], want[48];
        snprintf(name, sizeof name, "%c_%s", i < 3 ? 'k' : 'v', part[i % 3]);
        snprintf(want, sizeof want, "%s.%s", kind, name);
        struct array a = fix_get(file, i % 3 ? KIND_F16 : KIND_U8, want, 0);
        const struct kv_dump *got = dump_find(d, n_dump, name);
        assert_int_equal(got->n[0], n);
        assert_int_equal(a.n[0], n);
        assert_int_equal(got->n[2], a.n[2]);
        assert_memory_equal(got->data, a.data,
                            (size_t)(a.n[0] * a.n[1] * a.n[2]) * dtype_bytes(i % 3 ? DT_F16 : DT_U8));
    }
    dump_free(d, n_dump);
}

static void oracle_case(const char *stream, const char *kind, const char *text, enum dtype dtype)
{
    struct rig g;
    struct feed f;
    struct fix file;
    struct kv_spec s;
    struct kv_cache c;
    char *path = mem_printf("flexgen_%s", stream), *out = mem_printf("%s.out", kind);
    fix_open(&file, path);
    struct array param = fix_get(&file, KIND_I32, "param", 0), rows = fix_get(&file, KIND_I32, "rows", 0);
    struct array q = fix_get(&file, KIND_F16, "q", 0), k = fix_get(&file, KIND_F16, "k", 0);
    struct array v = fix_get(&file, KIND_F16, "v", 0), want = fix_get(&file, KIND_F32, out, 0);
    const int64_t n = int_at(&param, 3), n_prompt = int_at(&param, 4);
    rig_init(&g, int_at(&param, 0), int_at(&param, 1), int_at(&param, 2), dtype);
    g.shape.kind[0].rope = NULL; /* the rows are rotated already */
    f = (struct feed){.n = n, .q_row = (size_t)(q.n[1] * q.n[2]), .k_row = (size_t)(k.n[1] * k.n[2])};
    f.q = floats(&q, (size_t)n * f.q_row);
    f.k = floats(&k, (size_t)n * f.k_row);
    f.v = floats(&v, (size_t)n * f.k_row);
    f.out = mem_alloc((size_t)n * f.q_row, sizeof(float));
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(rig_prompt(&g, &c, &s, &f, n_prompt, n, 512), 0);
    rig_feed(&g, &c, &f, n, 1);
    for (int64_t i = 0; i < rows.n[0]; i++)
        compare_rows(f.out + (size_t)int_at(&rows, i) * f.q_row,
                     (const float *)want.data + (size_t)i * f.q_row, f.q_row, 1e-5, text, 0,
                     int_at(&rows, i));
    check_codes(&c, &file, kind, n);
    kv_close(&c);
    kv_spec_free(&s);
    feed_free(&f);
    free(file.bytes);
    free(path);
    free(out);
    rig_free(&g);
}

/* The oracle pads heads of 32 channels to groups of 64 for FlexGen's own formula; such groups are refused
 * here.
 */
static void oracle(void **state)
{
    (void)state;
    oracle_case("gqa", "sim", "flexgen", DT_F32);
    oracle_case("mha", "sim", "flexgen", DT_F32);
    oracle_case("gqa", "up", "flexgen-upstream", DT_F32);
    if (strcmp(rig_backend, "ref"))
        return; /* 16-bit caches have 16-bit products in the fast backend */
    oracle_case("gqa", "sim", "flexgen", DT_F16);
    oracle_case("mha", "sim", "flexgen", DT_F16);
    oracle_case("gqa", "up", "flexgen-upstream", DT_F16);
}

/* ------------------------------------------------------------------ once equals every time */

/* The benchmark's way: the cache keeps every row in its dtype; each forward quantises all of it anew and
 * attends to what that gives, own rows included. */
struct anew {
    struct tensor k, v; /* [n,Hk,d] */
    struct quant_args q[2];
    int64_t n;
};

static void anew_step(const struct rig *g, struct anew *a, const struct feed *f, int64_t n, float *out)
{
    struct kv_rows r = feed_rows(f, g, a->n, n);
    r.out.data = out + (size_t)a->n * f->q_row;
    struct rope_args rope[3] = {
        kv_rotate(r.q, r.q, &g->rope, a->n),
        kv_rotate(r.k, tensor_rows(&a->k, a->n, n), &g->rope, a->n),
        kv_rotate(r.v, tensor_rows(&a->v, a->n, n), NULL, 0),
    };
    g->ops->rope(g->ops, rope, 3);
    a->n += n;
    struct kv_cache c = {.shape = &g->shape, .kind = &g->shape.kind[0], .ops = g->ops};
    struct attend_args at;
    kv_attend_init(&at, &c, &r);
    for (int i = 0; i < 2; i++) {
        a->q[i].src = tensor_rows(i ? &a->v : &a->k, 0, a->n);
        struct kv_run run = {.layout = QUANT_TOKEN,
                             .dtype = g->shape.dtype,
                             .bits = a->q[i].bits,
                             .group = a->q[i].group,
                             .f16_values = true,
                             .data = a->q[i].codes,
                             .scale = a->q[i].scale,
                             .min = a->q[i].min,
                             .n = a->n};
        *(i ? at.set[0].v : at.set[0].k) = run;
    }
    at.set[0].n_k = at.set[0].n_v = 1;
    g->ops->quant(g->ops, a->q, 2);
    g->ops->attend(g->ops, &at, 1);
    rows_free(&r);
}

static void once_is_every_time(void **state)
{
    (void)state;
    static const int32_t heads[][2] = {{6, 2}, {3, 3}};
    const int64_t n_prompt = 150, n = 380, chunk = 64;
    for (int h = 0; h < 2; h++) {
        struct rig g;
        struct feed f;
        struct kv_spec s;
        struct kv_cache c;
        rig_init(&g, heads[h][0], heads[h][1], 64, h ? DT_F32 : DT_F16);
        feed_init(&f, &g, n, 41);
        const size_t values = (size_t)n * f.k_row;
        struct anew a = {.k = {mem_alloc(values, 4), g.shape.dtype, {n, heads[h][1], 64, 1}}};
        a.v = a.k;
        a.v.data = mem_alloc(values, 4);
        for (int i = 0; i < 2; i++)
            a.q[i] = (struct quant_args){.layout = QUANT_TOKEN,
                                         .bits = 4,
                                         .group = 32,
                                         .codes = mem_alloc(values / 2, 1),
                                         .scale = mem_alloc(values / 32, 2),
                                         .min = mem_alloc(values / 32, 2)};
        float *want = mem_alloc((size_t)n * f.q_row, sizeof *want);
        while (a.n < n)
            anew_step(&g, &a, &f,
                      a.n >= n_prompt          ? 1
                      : a.n + chunk < n_prompt ? chunk
                                               : n_prompt - a.n,
                      want);
        assert_int_equal(kv_spec_parse(&s, "flexgen"), 0);
        assert_int_equal(rig_prompt(&g, &c, &s, &f, n_prompt, n, chunk), 0);
        rig_feed(&g, &c, &f, n, 1);
        assert_memory_equal(f.out, want, (size_t)n * f.q_row * sizeof *want);
        struct kv_dump d[KV_DUMP_MAX];
        int n_dump;
        assert_int_equal(kv_dump(&c, d, &n_dump), 0);
        for (int i = 0; i < 2; i++) {
            const uint8_t *codes = dump_find(d, n_dump, i ? "v_codes" : "k_codes")->data;
            for (size_t k = 0; k < values; k++)
                assert_int_equal(codes[k], ((const uint8_t *)a.q[i].codes)[k / 2] >> (k % 2 * 4) & 15);
            assert_memory_equal(dump_find(d, n_dump, i ? "v_scale" : "k_scale")->data, a.q[i].scale,
                                values / 32 * 2);
            free(a.q[i].codes);
            free(a.q[i].scale);
            free(a.q[i].min);
        }
        dump_free(d, n_dump);
        kv_close(&c);
        kv_spec_free(&s);
        free(a.k.data);
        free(a.v.data);
        free(want);
        feed_free(&f);
        rig_free(&g);
    }
}

/* ------------------------------------------------------------------ the rule of each `when` */

/* fp16(x), through the conversion that the quantiser test holds against the oracle. */
static double half(double x)
{
    return (double)f16_round((float)x);
}

/* One token's row as its codes give it. */
static void coded_row(const float *x, int64_t d, int64_t group, bool upstream, double *out)
{
    for (int64_t at = 0; at < d; at += group) {
        double mn = INFINITY, mx = -INFINITY;
        for (int64_t i = at; i < at + group; i++) {
            mn = fmin(mn, half((double)x[i]));
            mx = fmax(mx, half((double)x[i]));
        }
        double range = half(mx - mn), s = upstream ? half(half(1 / range) * 15) : half(range / 15);
        for (int64_t i = at; i < at + group; i++) {
            double above = half(half((double)x[i]) - mn);
            double code = rint(fmin(fmax(half(upstream ? above * s : above / s), 0), 15));
            out[i] = half(half(upstream ? code / s : code * s) + mn);
        }
    }
}

struct when_case {
    const char *text;
    bool upstream;
    int when; /* 0, 1, 2: prefill, after, decode */
    int64_t group;
};

/* Whether row p reads token j as codes. */
static bool reads_codes(const struct when_case *w, int64_t n_prompt, int64_t p, int64_t j)
{
    if (p < n_prompt && w->when != 0)
        return false; /* the plain prompt pass */
    if (j < n_prompt && w->when == 2)
        return false; /* the prompt stays */
    return j < p || !w->upstream;
}

/* Keys are rotated in float32 by the backend under test; the rest is double. */
static void check_when(const struct when_case *w)
{
    struct rig g;
    struct feed f;
    struct kv_spec s;
    struct kv_cache c;
    const int64_t n_prompt = 75, n = 110, d = 32, H = 4, Hk = 2;
    rig_init(&g, (int32_t)H, (int32_t)Hk, (int32_t)d, DT_F32);
    g.shape.kind[0].rope = NULL;
    feed_init(&f, &g, n, 19);
    for (size_t i = 0; i < (size_t)n * f.k_row; i++) /* so that fp16 rounding of exact rows does not matter */
        f.k[i] = f16_round(f.k[i]), f.v[i] = f16_round(f.v[i]);
    assert_int_equal(kv_spec_parse(&s, w->text), 0);
    assert_int_equal(needs_own_pass(&s, n_prompt, &g.shape), w->when == 0);
    assert_int_equal(rig_prompt(&g, &c, &s, &f, n_prompt, n, 40), 0);
    rig_feed(&g, &c, &f, n, 1);
    double key[32], val[32], out[32];
    for (int64_t p = 0; p < n; p++)
        for (int64_t h = 0; h < H; h++) {
            const float *q = f.q + (p * H + h) * d;
            double sum = 0;
            memset(out, 0, sizeof out);
            for (int64_t j = 0; j <= p; j++) {
                const float *k = f.k + (j * Hk + h / 2) * d, *v = f.v + (j * Hk + h / 2) * d;
                for (int i = 0; i < d; i++)
                    key[i] = (double)k[i], val[i] = (double)v[i];
                if (reads_codes(w, n_prompt, p, j)) {
                    coded_row(k, d, w->group, w->upstream, key);
                    coded_row(v, d, w->group, w->upstream, val);
                }
                double dot = 0;
                for (int i = 0; i < d; i++)
                    dot += (double)q[i] * key[i];
                double e = exp(dot / sqrt((double)d));
                sum += e;
                for (int i = 0; i < d; i++)
                    out[i] += e * val[i];
            }
            for (int i = 0; i < d; i++)
                if (!(fabs((double)f.out[(p * H + h) * d + i] - out[i] / sum) <= 2e-5))
                    fail_msg("%s: row %d, head %d", w->text, (int)p, (int)h);
        }
    struct kv_budgets b;
    kv_get_budgets(&c, &b);
    double exact = w->when == 2 ? (double)n_prompt / (double)n : 0;
    assert_near(b.value[KV_KEPT_BITS], exact * 32 + (1 - exact) * (4 + 32.0 / (double)w->group), 1e-9);
    kv_close(&c);
    kv_spec_free(&s);
    feed_free(&f);
    rig_free(&g);
}

static void every_when(void **state)
{
    (void)state;
    static const struct when_case cases[] = {
        {"flexgen", false, 0, 32},
        {"flexgen:when=after,group=16", false, 1, 16},
        {"flexgen:when=decode", false, 2, 32},
        {"flexgen-upstream:when=prefill,group=32", true, 0, 32},
        {"flexgen-upstream:group=16", true, 1, 16},
        {"flexgen-upstream:when=decode,group=32", true, 2, 32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_when(&cases[i]);
}

/* ------------------------------------------------------------------ keys and bytes */

static void prompt_passes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t n_prompt;
        bool own;
    } rows[] = {{"flexgen", 1, true},
                {"flexgen:when=after", 100, false},
                {"flexgen:when=decode", 100, false},
                {"flexgen-upstream", 100, false},
                {"flexgen-upstream:when=prefill", 100, true},
                {"flexgen-upstream:when=prefill", 1, false},
                {"kivi", 1000, false},
                {"kivi:when=decode", 1000, false},
                {"kivi:when=prefill", 128, false},
                {"kivi:when=prefill", 129, true},
                {"streaming:local=60,when=after", 1000, false},
                {"streaming:local=60", 1000, true}};
    const struct layer_kind kind = kind_attention(2, 2, 64, 0);
    struct seq_shape shape;
    shape_alike(&shape, 1, &kind);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i].text), 0);
        assert_int_equal(needs_own_pass(&s, rows[i].n_prompt, &shape), rows[i].own);
        kv_spec_free(&s);
    }
    struct kv_spec a, b;
    assert_int_equal(kv_spec_parse(&a, "flexgen"), 0);
    assert_int_equal(kv_spec_parse(&b, "flexgen-upstream:group=32,when=prefill"), 0);
    assert_true(kv_prefill_key(&a, 9, &shape) != kv_prefill_key(&b, 9, &shape));
    kv_spec_free(&a);
    kv_spec_free(&b);
}

/* 1,000 tokens, 200 of them prompt; 2 KV heads of 64, f16 cache, one decode row of workspace. */
static void bytes_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t coded, group, prompt;
    } rows[] = {
        {"flexgen", 1000, 32, 0}, {"flexgen-upstream", 1000, 64, 0}, {"flexgen:when=decode", 800, 32, 200}};
    for (size_t i = 0; i < 3; i++) {
        struct rig g;
        struct kv_spec s;
        struct kv_ledger l;
        rig_init(&g, 6, 2, 64, DT_F16);
        assert_int_equal(kv_spec_parse(&s, rows[i].text), 0);
        assert_int_equal(kv_predict(&s, &g.shape, 200, 1000, &l), 0);
        assert_int_equal(l.bytes[MEM_CODES][PLACE_DEVICE], 2 * rows[i].coded * 128 / 2);
        assert_int_equal(l.bytes[MEM_SCALES][PLACE_DEVICE], 2 * rows[i].coded * 128 / rows[i].group * 4);
        assert_int_equal(l.bytes[MEM_WINDOW][PLACE_DEVICE], 2 * rows[i].prompt * 128 * 2);
        assert_int_equal(l.bytes[MEM_WORKSPACE][PLACE_DEVICE], 2 * 128 * 2);
        kv_spec_free(&s);
        rig_free(&g);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantisers),    cmocka_unit_test(codes_above_the_top),
        cmocka_unit_test(oracle),        cmocka_unit_test(once_is_every_time),
        cmocka_unit_test(every_when),    cmocka_unit_test(prompt_passes),
        cmocka_unit_test(bytes_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
