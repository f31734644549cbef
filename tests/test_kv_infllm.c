/* InfLLM against an oracle that was transcribed from the upstream sources by somebody who had seen neither
 * this program nor its specification (oracle/infllm_oracle.py), its identities, and its account of memory. */
#include "kv_fix.h"

/* ------------------------------------------------------------------ the oracle's state */

static int rising(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

struct oracle {
    struct fix file;
    int i; /* case */
    int64_t topk, repr;
    int64_t chunk, call; /* chunks and calls so far */
};

/* Blocks that the newest chunk attended to. */
static void check_chosen(struct oracle *o, const struct kv_cache *c, const struct kv_dump *blocks, int64_t at,
                         bool single)
{
    struct array chosen = fix_get(&o->file, KIND_I32, "c%d.chosen", o->i);
    const int32_t *want = (const int32_t *)chosen.data + o->chunk * (2 + o->topk);
    assert_true(o->chunk < chosen.n[0]);
    if (single)
        assert_int_equal(want[0], c->n);
    int64_t n = 0;
    while (n < o->topk && want[2 + n] >= 0)
        n++;
    qsort(blocks->data, (size_t)blocks->n[0], sizeof(int32_t), rising);
    if (blocks->n[0] != n || memcmp(blocks->data, want + 2, (size_t)n * sizeof(int32_t)) != 0)
        fail_msg("case %d, chunk at %d: other blocks chosen", o->i, (int)at);
    o->chunk++;
}

static void check_counts(struct oracle *o, const struct kv_dump *counts)
{
    struct array all = fix_get(&o->file, KIND_I32, "c%d.counts", o->i);
    const int32_t *want = (const int32_t *)all.data + 4 * o->call, *got = counts->data;
    assert_true(o->call < all.n[0]);
    if (got[0] < want[0]) /* the oracle's call is longer than a chunk */
        return;
    for (int k = 0; k < 4; k++)
        assert_int_equal(got[k], want[k]);
    o->call++;
}

/* Tokens behind every representative, and the mean of their keys. */
static void check_repr(struct oracle *o, const struct rig *g, const struct feed *f, const struct kv_dump *ids,
                       const struct kv_dump *keys)
{
    struct array want = fix_get(&o->file, KIND_I32, "c%d.repr_ids", o->i);
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k,
                  n = ids->n[0];
    assert_true(n <= want.n[0]);
    assert_int_equal(ids->n[2], o->repr);
    assert_memory_equal(ids->data, want.data, (size_t)(n * H * o->repr) * sizeof(int32_t));
    for (int64_t row = 0; row < n * H; row++)
        for (int64_t ch = 0; ch < d; ch++) {
            double sum = 0;
            for (int64_t k = 0; k < o->repr; k++) {
                int64_t token = ((const int32_t *)ids->data)[row * o->repr + k];
                sum += (double)f->k[(token * Hk + row % H / (H / Hk)) * d + ch];
            }
            sum /= (double)o->repr;
            assert_near((double)((const float *)keys->data)[row * d + ch], sum, 1e-6 * fmax(1, fabs(sum)));
        }
}

static void check_state(struct oracle *o, const struct rig *g, const struct feed *f, const struct kv_cache *c,
                        int64_t at)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    check_chosen(o, c, dump_find(d, n, "blocks"), at, c->n >= c->n_prompt - 1);
    check_counts(o, dump_find(d, n, "counts"));
    check_repr(o, g, f, dump_find(d, n, "repr_ids"), dump_find(d, n, "repr"));
    dump_free(d, n);
}

static void oracle_case(struct oracle *o, const char *name)
{
    struct array param = fix_get(&o->file, KIND_I32, "param", 0),
                 cases = fix_get(&o->file, KIND_I32, "case", 0);
    struct array rows = fix_get(&o->file, KIND_I32, "c%d.rows", o->i),
                 out = fix_get(&o->file, KIND_F32, "c%d.out", o->i);
    struct array repr = fix_get(&o->file, KIND_I32, "c%d.repr_ids", o->i);
    const int64_t n = int_at(&param, 0), n_prompt = int_at(&param, 1);
    const int32_t *z = (const int32_t *)cases.data + 7 * o->i;
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    o->topk = z[2];
    o->repr = z[5];
    o->chunk = o->call = 0;
    stream_open(&g, &f, name, n, DT_F32);
    const double base = *(const double *)fix_get(&o->file, KIND_F64, "rope_base", 0).data;
    for (int k = 0; k < g.shape.kind[0].d_k / 2; k++)
        g.inv_freq[k] = (float)pow(base, -2.0 * k / g.shape.kind[0].d_k) / (z[6] ? (float)z[6] : 1);
    char *text = mem_printf("infllm:init=%d,local=%d,topk=%d,block=%d,piece=%d,repr=%d", z[0], z[1], z[2],
                            z[3], z[4], z[5]);
    assert_int_equal(kv_spec_parse(&spec, text), 0);
    assert_true(needs_own_pass(&spec, n_prompt, &g.shape));
    assert_int_equal(kv_open(&c, &spec, &g.shape, g.ops, 0, n_prompt, n), 0);
    while (c.n < n) {
        int64_t at = c.n, left = n_prompt - 1 - at;
        assert_int_equal(rig_step(&g, &c, &f, left <= 0 ? 1 : left < z[4] ? left : z[4]), 0);
        check_state(o, &g, &f, &c, at);
    }
    if (o->topk)
        assert_int_equal((n - z[1] - z[0]) / z[3], repr.n[0]);
    /* Upstream counts positions from the first key it holds, here they are the true ones: float angles differ
     * by some 1e-7 of the position. */
    const double bound = 3e-5 * fmax(1, (double)n / 300);
    for (int64_t r = 0; r < rows.n[0]; r++)
        compare_rows(f.out + (size_t)int_at(&rows, r) * f.q_row,
                     (const float *)out.data + (size_t)r * f.q_row, f.q_row, bound, text, o->i,
                     int_at(&rows, r));
    kv_close(&c);
    kv_spec_free(&spec);
    free(text);
    feed_free(&f);
    rig_free(&g);
}

static void oracle_stream(const char *name)
{
    struct oracle o = {0};
    char *path = mem_printf("infllm_%s", name);
    fix_open(&o.file, path);
    struct array cases = fix_get(&o.file, KIND_I32, "case", 0);
    assert_true(cases.n[0] >= 1);
    for (o.i = 0; o.i < cases.n[0]; o.i++)
        oracle_case(&o, name);
    free(path);
    free(o.file.bytes);
}

static void oracle_gqa(void **state)
{
    (void)state;
    oracle_stream("gqa");
}

static void oracle_mha(void **state)
{
    (void)state;
    oracle_stream("mha");
}

/* Sizes for ratio, prompt length and the cap that the model's length puts on the budget. */
static void sizes(void **state)
{
    (void)state;
    fix_budgets("infllm", (const enum kv_budget[]){KV_N_INIT, KV_N_LOCAL, KV_TOPK}, 2, 3);
}

/* ------------------------------------------------------------------ identities */

/* Feeds the prompt `chunk` rows at a time and the rest one by one. */
static void run(const struct rig *g, const char *text, const struct feed *f, int64_t n_prompt, int64_t chunk,
                int64_t rest)
{
    struct kv_spec s;
    struct kv_cache c;
    memset(f->out, 0, (size_t)f->n * f->q_row * sizeof(float));
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(rig_prompt(g, &c, &s, f, n_prompt, f->n, chunk), 0);
    rig_feed(g, &c, f, f->n, rest);
    kv_close(&c);
    kv_spec_free(&s);
}

/* Any multiple of the chunk gives the same chunks; rows behind the prompt come one by one or together; a
 * smaller chunk that cuts elsewhere gives something else. */
static void chunks_do_not_matter(void **state)
{
    (void)state;
    static const char *const text = "infllm:init=3,local=40,topk=2,block=8,piece=32,repr=2";
    static const int64_t chunks[] = {32, 64, 96, 512}, rests[] = {1, 7, 40};
    struct rig g;
    struct feed f;
    rig_init(&g, 6, 2, 16, DT_F16);
    feed_init(&f, &g, 290, 17);
    size_t bytes = (size_t)f.n * f.q_row * sizeof(float);
    run(&g, text, &f, 250, 32, 1);
    float *want = mem_dup(f.out, bytes);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            run(&g, text, &f, 250, chunks[i], rests[k]);
            assert_memory_equal(f.out, want, bytes);
        }
    run(&g, "infllm:init=3,local=40,topk=2,block=8,piece=16,repr=2", &f, 250, 32, 1);
    assert_memory_equal(f.out, want, 32 * f.q_row * sizeof(float)); /* no token has left the window */
    assert_memory_not_equal(f.out, want, bytes);
    free(want);
    feed_free(&f);
    rig_free(&g);
}

/* Raw keys of far tokens, rotated ones of near tokens, in double; `far` and `near` tell how often token j
 * counts. */
static void check_row(const struct rig *g, const struct feed *f, int64_t p, int64_t n_local, const int *far)
{
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k;
    double *w = mem_alloc((size_t)(p + 1), sizeof *w);
    for (int64_t h = 0; h < H; h++) {
        const float *q = f->q + (size_t)(p * H + h) * (size_t)d;
        double total = 0;
        for (int64_t j = 0; j <= p; j++) {
            const float *k = f->k + (size_t)(j * Hk + h / (H / Hk)) * (size_t)d;
            w[j] = 0;
            for (int part = 0; part < 2; part++) {
                double dist = part ? (double)(n_local - 1) : (double)(p - j), x = 0;
                if (part ? !far[j] : p - j >= n_local)
                    continue;
                for (int64_t c = 0; c < d / 2; c++) { /* <rotate(q, dist), k> */
                    double a = dist * (double)g->inv_freq[c], u = (double)q[c], v = (double)q[c + d / 2];
                    x += (u * cos(a) - v * sin(a)) * (double)k[c];
                    x += (v * cos(a) + u * sin(a)) * (double)k[c + d / 2];
                }
                w[j] += (part ? far[j] : 1) * exp(x / sqrt((double)d));
            }
            total += w[j];
        }
        for (int64_t c = 0; c < d; c++) {
            double want = 0;
            for (int64_t j = 0; j <= p; j++)
                want += w[j] / total * (double)f->v[(j * Hk + h / (H / Hk)) * d + c];
            assert_near((double)f->out[(size_t)(p * H + h) * (size_t)d + (size_t)c], want, 1e-4);
        }
    }
    free(w);
}

/* With as many slots as blocks every token is attended to: near ones at their distance, all others at
 * n_local - 1, and in a prefill chunk those that are both twice. */
static void all_blocks_attend_to_all_tokens(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    int far[300];
    rig_init(&g, 6, 2, 16, DT_F32);
    feed_init(&f, &g, 300, 23);
    run(&g, "infllm:init=5,local=64,topk=100,block=16,piece=32", &f, 260, 512, 1);
    for (int64_t a = 0, b; a < f.n; a = b) {
        b = a >= 259 ? a + 1 : a + 32 < 259 ? a + 32 : 259;
        for (int64_t j = 0; j < f.n; j++)
            far[j] = j < b - 64;
        for (int64_t p = a; p < b; p++)
            check_row(&g, &f, p, 64, far);
    }
    feed_free(&f);
    rig_free(&g);
}

/* Without slots nothing is retrieved: what left the window and is in a block is gone. */
static void no_blocks(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    int far[200];
    rig_init(&g, 2, 2, 16, DT_F32);
    feed_init(&f, &g, 200, 29);
    run(&g, "infllm:init=5,local=32,topk=0,block=16,piece=16", &f, 100, 512, 1);
    for (int64_t p = 99; p < f.n; p++) {
        int64_t rem0 = 5 + (p - 32 - 5) / 16 * 16;
        for (int64_t j = 0; j <= p; j++)
            far[j] = j < 5 || (j >= rem0 && j <= p - 32);
        check_row(&g, &f, p, 32, far);
    }
    feed_free(&f);
    rig_free(&g);
}

/* The reference's sizes: sequences that fit the window are `full`, up to the order of sums (the last prompt
 * token is a chunk of its own here). */
static void short_prompts_are_full(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    rig_init(&g, 3, 1, 16, DT_F32);
    feed_init(&f, &g, 512, 31);
    size_t bytes = (size_t)f.n * f.q_row * sizeof(float);
    run(&g, "full", &f, 500, 512, 1);
    float *want = mem_dup(f.out, bytes);
    run(&g, "infllm:ratio=8", &f, 500, 512, 1);
    compare_rows(f.out, want, (size_t)f.n * f.q_row, 1e-5, "infllm:ratio=8", 0, 0);
    free(want);
    feed_free(&f);
    rig_free(&g);
}

/* ------------------------------------------------------------------ memory */

/* 2 KV heads of 32, 6 heads, f16: 600 prompt tokens, 700 in all. */
static void bytes_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec s;
    struct kv_cache c;
    struct kv_ledger l = {0};
    struct kv_budgets b;
    rig_init(&g, 6, 2, 32, DT_F16);
    feed_init(&f, &g, 700, 5);
    assert_int_equal(kv_spec_parse(&s, "infllm:init=4,local=64,topk=3,block=16,piece=32,repr=2"), 0);
    assert_int_equal(kv_open(&c, &s, &g.shape, g.ops, 0, 600, 700), 0);
    size_t used = rig_used(&g);
    g.ops->peak(g.ops, true);
    rig_feed(&g, &c, &f, 600, 32);
    assert_true(g.ops->peak(g.ops, true) > g.ops->used(g.ops, MEM_WINDOW, PLACE_DEVICE));
    ops_fail_alloc(g.ops, 1); /* nothing is taken while decoding */
    rig_feed(&g, &c, &f, 700, 1);
    ops_fail_alloc(g.ops, 0);
    size_t decode = g.ops->peak(g.ops, false), device = 0;
    for (int k = 0; k < MEM_KIND_N; k++)
        device += g.ops->used(g.ops, (enum mem_kind)k, PLACE_DEVICE);
    if (!strcmp(g.ops->name, "ref")) /* other backends have scratch of their own */
        assert_int_equal(decode, device);
    assert_int_equal(rig_used(&g), used);
    kv_bytes(&c, &l);
    const int64_t n_block = (700 - 64 - 4) / 16, row = 2 * 64 * 2, score_ld = 4 + 64 + 3 * 16 + 16 + 32;
    assert_int_equal(l.bytes[MEM_WINDOW][PLACE_HOST], 700 * row);
    assert_int_equal(l.bytes[MEM_WINDOW][PLACE_DEVICE], (4 + 64 + 16 + 3 * 16) * row);
    assert_int_equal(l.bytes[MEM_INDEX][PLACE_DEVICE],
                     n_block * 6 * (32 * 2 + 2 * 4) + 6 * score_ld * 4 + 3 * 4);
    assert_int_equal(l.bytes[MEM_WORKSPACE][PLACE_DEVICE],
                     n_block * 4 + 6 * 32 * 4 + 2 * 6 * 32 * 2 + 6 * 32 * 4 + 2 * 32 * 2);
    assert_int_equal(kv_ledger_place(&l, PLACE_HOST) + kv_ledger_place(&l, PLACE_DEVICE),
                     kv_ledger_total(&l));
    kv_get_budgets(&c, &b);
    assert_near(b.value[KV_N_INIT], 4, 0);
    assert_near(b.value[KV_N_LOCAL], 64, 0);
    assert_near(b.value[KV_TOPK], 3, 0);
    /* of 636 tokens outside the window, 4 are first ones and 632 = 39 * 16 + 8 in blocks or about to be */
    assert_near(b.value[KV_KEPT_TOKENS], 4 + 64 + 3 * 16 + 8, 0);
    kv_close(&c);
    kv_spec_free(&s);
    feed_free(&f);
    rig_free(&g);
}

static const char *dumped = NULL; /* stream of a real model: oracle/infllm_check.py --replay */

static void oracle_dumped(void **state)
{
    (void)state;
    oracle_stream(dumped);
}

/* test_kv_infllm [TABLE [DIR NAME]]: with a directory, only the stream of that name in it. */
int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    if (argc > 3) {
        const struct CMUnitTest one[] = {cmocka_unit_test(oracle_dumped)};
        fix_dir = argv[2];
        dumped = argv[3];
        return cmocka_run_group_tests(one, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oracle_gqa),
        cmocka_unit_test(oracle_mha),
        cmocka_unit_test(sizes),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(all_blocks_attend_to_all_tokens),
        cmocka_unit_test(no_blocks),
        cmocka_unit_test(short_prompts_are_full),
        cmocka_unit_test(bytes_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
