/* h2o-paper, h2o and knorm: against an oracle transcribed from the upstream sources by somebody who had seen
 * neither this program nor its specification (oracle/h2o_oracle.py, h2o_fixtures.py), and against plain
 * simulations of their rules. */
#include "kv_fix.h"

/* ------------------------------------------------------------------ the oracle's fixtures */

static uint64_t hash_bytes(const uint8_t *data, size_t n)
{
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++)
        h = h * UINT64_C(0x100000001B3) + data[i] + 1;
    return h;
}

/* Keys that the next row will see, a byte each: [heads,n+1], by token. */
static uint8_t *seen_next(const struct kv_cache *c, int64_t *heads)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    const bool lists = strcmp(c->method->name, "h2o-paper") != 0;
    const struct kv_dump *a = dump_find(d, n, lists ? "kept" : "keep");
    *heads = a->n[0];
    uint8_t *out = mem_alloc((size_t)(a->n[0] * (c->n + 1)), 1);
    for (int64_t h = 0; h < a->n[0]; h++) {
        uint8_t *row = out + h * (c->n + 1);
        for (int64_t i = 0; lists && i < a->n[1]; i++)
            row[((const int32_t *)a->data)[h * a->n[1] + i]] = 1;
        if (lists)
            row[c->n] = 1;
        else
            memcpy(row, (const uint8_t *)a->data + h * a->n[1], (size_t)c->n + 1);
    }
    dump_free(d, n);
    return out;
}

/* Scores by token, [heads,n]: as they are (h2o-paper), or means over the query heads of a KV head, 0 where
 * nothing is kept. */
static float *scores_of(const struct kv_cache *c)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    const struct kv_dump *score = dump_find(d, n, "score");
    const float *from = score->data;
    const int64_t H = c->kind->n_head, hk = c->kind->n_kv_head, rep = H / hk, m = score->n[1];
    float *out = mem_alloc((size_t)(H * c->n), sizeof *out);
    if (!strcmp(c->method->name, "h2o-paper")) {
        memcpy(out, from, (size_t)(H * c->n) * sizeof *out);
    } else {
        const int32_t *kept = dump_find(d, n, "kept")->data;
        for (int64_t i = 0; i < H * m; i++)
            out[i / m / rep * c->n + kept[i / m / rep * m + i % m]] += from[i] / (float)rep;
    }
    dump_free(d, n);
    return out;
}

/* One logit that lies at a rounding border of fp16 changes a probability by up to 1 %: few may. */
static void check_scores(const struct kv_cache *c, const struct array *want, double bound, const char *what,
                         int i)
{
    float *got = scores_of(c);
    int64_t n = want->n[0] * want->n[1], n_off = 0;
    assert_int_equal(want->n[1], c->n);
    for (int64_t k = 0; k < n; k++) {
        double w = (double)((const float *)want->data)[k], off = fabs((double)got[k] - w) - 1e-7;
        n_off += off > bound * w;
        if (!(off <= 1e-2 * w))
            fail_msg("%s, case %d: score of head %d, token %d: %g is not %g", what, i, (int)(k / c->n),
                     (int)(k % c->n), (double)got[k], w);
    }
    assert_true(n_off <= n / 100);
    free(got);
}

struct oracle_case {
    const char *stream, *group;
    char spec[96];
    int i;
    int64_t L, S, heavy, recent;
    double bound; /* of scores, relative */
};

static void check_case(const struct fix *file, const struct oracle_case *o)
{
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    struct kv_budgets b;
    char name[32];
    snprintf(name, sizeof name, "%s%%d.hash", o->group);
    struct array hash = fix_get(file, KIND_U64, name, o->i);
    snprintf(name, sizeof name, "%s%%d.scores", o->group);
    struct array scores = fix_get(file, KIND_F32, name, o->i);
    snprintf(name, sizeof name, "%s%%d.out", o->group);
    struct array out = fix_get(file, KIND_F32, name, o->i);
    stream_open(&g, &f, o->stream, o->L + o->S,
                DT_F32);         /* the fast backend rounds products of 16-bit caches */
    g.shape.kind[0].rope = NULL; /* the streams are read as rotated */
    assert_int_equal(kv_spec_parse(&spec, o->spec), 0);
    assert_int_equal(rig_prompt(&g, &c, &spec, &f, o->L, f.n + 1, 64), 0);
    kv_get_budgets(&c, &b);
    assert_near(b.value[KV_TOPK], (double)o->heavy, 0);
    assert_near(b.value[KV_N_LOCAL], (double)o->recent, 0);
    for (int64_t s = 0; s < o->S; s++) {
        int64_t heads;
        uint8_t *seen = seen_next(&c, &heads);
        if (hash_bytes(seen, (size_t)(heads * (c.n + 1))) != ((const uint64_t *)hash.data)[s])
            fail_msg("%s: %s on stream %s: other keys in step %d", o->group, o->spec, o->stream, (int)s + 1);
        free(seen);
        assert_int_equal(rig_step(&g, &c, &f, 1), 0);
    }
    check_scores(&c, &scores, o->bound, o->group, o->i);
    compare_rows(f.out + (size_t)(c.n - 1) * f.q_row, out.data, f.q_row, 1e-5, o->group, o->i, c.n - 1);
    kv_close(&c);
    kv_spec_free(&spec);
    feed_free(&f);
    rig_free(&g);
}

static void check_stream(const char *stream)
{
    struct fix file;
    char *name = mem_printf("h2o_%s", stream);
    fix_open(&file, name);
    struct array bench = fix_get(&file, KIND_I32, "bench.case", 0);
    struct array ratio = fix_get(&file, KIND_F64, "bench.ratio", 0);
    struct array real = fix_get(&file, KIND_I32, "true.case", 0);
    const double *r = ratio.data;
    assert_true(bench.n[0] >= 9 && real.n[0] >= 8);
    for (int i = 0; i < bench.n[0]; i++) {
        struct oracle_case o = {.stream = stream, .group = "bench", .i = i, .bound = 1e-3};
        o.L = int_at(&bench, 5 * i), o.S = int_at(&bench, 5 * i + 1);
        o.heavy = int_at(&bench, 5 * i + 3), o.recent = int_at(&bench, 5 * i + 4);
        snprintf(o.spec, sizeof o.spec, "h2o-paper:heavy=%.17g,recent=%.17g,lag=%d", r[2 * i], r[2 * i + 1],
                 (int)int_at(&bench, 5 * i + 2));
        check_case(&file, &o);
    }
    for (int i = 0; i < real.n[0]; i++) {
        struct oracle_case o = {.stream = stream, .group = "true", .i = i, .bound = 2e-5};
        o.L = int_at(&real, 4 * i), o.S = int_at(&real, 4 * i + 1);
        o.heavy = int_at(&real, 4 * i + 2), o.recent = int_at(&real, 4 * i + 3);
        snprintf(o.spec, sizeof o.spec, "h2o:heavy_size=%d,recent_size=%d", (int)o.heavy, (int)o.recent);
        check_case(&file, &o);
    }
    free(name);
    free(file.bytes);
}

static void oracle_gqa(void **state)
{
    (void)state;
    check_stream("gqa");
}

static void oracle_mha(void **state)
{
    (void)state;
    check_stream("mha");
}

/* ------------------------------------------------------------------ the true method, simulated */

enum { SIM_MAX = 1200 };

/* One KV head: tokens that are there, oldest first, and the score of each query head for them. */
struct sim_head {
    int64_t n, token[SIM_MAX];
    double score[4][SIM_MAX];
};

struct sim {
    const struct rig *g;
    const struct feed *f;
    int64_t heavy, recent, n_prompt;
    int when; /* enum kv_when */
};

/* Query head h at position t over the tokens of s up to t; out [d]. */
static void sim_attend(const struct sim *m, struct sim_head *s, int64_t h, int64_t t, double *out)
{
    const int64_t H = m->g->shape.kind[0].n_head, hk = m->g->shape.kind[0].n_kv_head,
                  d = m->g->shape.kind[0].d_k, rep = H / hk;
    static double p[SIM_MAX];
    double sum = 0;
    for (int64_t j = 0; j < s->n && s->token[j] <= t; j++) {
        double dot = 0;
        for (int64_t i = 0; i < d; i++)
            dot +=
                (double)m->f->q[(t * H + h) * d + i] * (double)m->f->k[(s->token[j] * hk + h / rep) * d + i];
        sum += p[j] = exp(dot / sqrt((double)d));
    }
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t j = 0; j < s->n && s->token[j] <= t; j++) {
        for (int64_t i = 0; i < d; i++)
            out[i] += p[j] / sum * (double)m->f->v[(s->token[j] * hk + h / rep) * d + i];
        if (m->when != KV_WHEN_DECODE || t >= m->n_prompt)
            s->score[h % rep][j] += p[j] / sum;
    }
}

static void sim_cut(const struct sim *m, struct sim_head *s)
{
    const int64_t rep = m->g->shape.kind[0].n_head / m->g->shape.kind[0].n_kv_head, n_cand = s->n - m->recent;
    int64_t left = 0;
    if (s->n <= m->heavy + m->recent)
        return;
    for (int64_t j = 0; j < s->n; j++) {
        int64_t better = 0;
        double mine = 0;
        for (int64_t r = 0; r < rep; r++)
            mine += s->score[r][j];
        for (int64_t i = 0; i < n_cand; i++) {
            double other = 0;
            for (int64_t r = 0; r < rep; r++)
                other += s->score[r][i];
            better += other > mine || (other == mine && i < j);
        }
        s->token[j] = j >= n_cand || better < m->heavy ? s->token[j] : -1;
    }
    for (int64_t j = 0; j < s->n; j++) {
        if (s->token[j] < 0)
            continue;
        s->token[left] = s->token[j];
        for (int64_t r = 0; r < rep; r++)
            s->score[r][left] = s->score[r][j];
        left++;
    }
    s->n = left;
}

/* Rows after which keys are dropped. */
static bool sim_ends(const struct sim *m, int64_t t)
{
    if (t >= m->n_prompt)
        return true;
    return m->when == KV_WHEN_DECODE
               ? false
               : t + 1 == m->n_prompt || (m->when == KV_WHEN_PREFILL && (t + 1) % 512 == 0);
}

static void check_kept(const struct sim *m, const struct sim_head *s, const struct kv_cache *c)
{
    struct kv_dump d[KV_DUMP_MAX];
    int n;
    assert_int_equal(kv_dump(c, d, &n), 0);
    const struct kv_dump *kept = dump_find(d, n, "kept");
    for (int64_t h = 0; h < m->g->shape.kind[0].n_kv_head; h++) {
        assert_int_equal(kept->n[1], s[h].n);
        for (int64_t i = 0; i < s[h].n; i++)
            assert_int_equal(((const int32_t *)kept->data)[h * kept->n[1] + i], s[h].token[i]);
    }
    dump_free(d, n);
}

static void sim_case(int when, int64_t n_prompt, int64_t n_new, int64_t heavy, int64_t recent, uint64_t seed)
{
    static const char *const names[] = {"prefill", "after", "decode"};
    static const int64_t chunks[] = {2048, 512, 100}; /* rows that come at a time do not matter */
    static struct sim_head head[2];
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    double want[8];
    rig_init(&g, 4, 2, 8, DT_F32);
    g.shape.kind[0].rope = NULL;
    feed_init(&f, &g, n_prompt + n_new, seed);
    const struct sim m = {&g, &f, heavy, recent, n_prompt, when};
    char *text = mem_printf("h2o:heavy_size=%d,recent_size=%d,when=%s", (int)heavy, (int)recent, names[when]);
    assert_int_equal(kv_spec_parse(&spec, text), 0);
    assert_int_equal(rig_prompt(&g, &c, &spec, &f, n_prompt, f.n, chunks[seed % 3]), 0);
    memset(head, 0, sizeof head);
    for (int64_t t = 0; t < f.n; t++) {
        if (t >= n_prompt)
            assert_int_equal(rig_step(&g, &c, &f, 1), 0);
        for (int64_t h = 0; h < 2; h++)
            head[h].score[0][head[h].n] = head[h].score[1][head[h].n] = 0, head[h].token[head[h].n++] = t;
        for (int64_t h = 0; h < 4; h++) {
            sim_attend(&m, &head[h / 2], h, t, want);
            for (int64_t i = 0; i < 8; i++)
                if (fabs((double)f.out[(t * 4 + h) * 8 + i] - want[i]) > 3e-5)
                    fail_msg("%s, prompt %d: position %d, head %d", text, (int)n_prompt, (int)t, (int)h);
        }
        if (!sim_ends(&m, t))
            continue;
        sim_cut(&m, &head[0]);
        sim_cut(&m, &head[1]);
        if (t >= n_prompt || (t + 1 == n_prompt && when != KV_WHEN_DECODE))
            check_kept(&m, head, &c);
    }
    kv_close(&c);
    kv_spec_free(&spec);
    free(text);
    feed_free(&f);
    rig_free(&g);
}

static void h2o_rule(void **state)
{
    (void)state;
    sim_case(KV_WHEN_AFTER, 100, 150, 20, 20, 1);
    sim_case(KV_WHEN_AFTER, 1, 100, 3, 1, 2);
    sim_case(KV_WHEN_AFTER, 30, 140, 40, 10, 3); /* the prompt fits, the answer does not */
    sim_case(KV_WHEN_AFTER, 60, 90, 0, 7, 4);
    sim_case(KV_WHEN_PREFILL, 700, 80, 90, 60, 5);
    sim_case(KV_WHEN_PREFILL, 1030, 10, 12, 3, 6);
    sim_case(KV_WHEN_PREFILL, 512, 80, 30, 30, 7);
    sim_case(KV_WHEN_DECODE, 100, 150, 20, 20, 8);
    sim_case(KV_WHEN_DECODE, 20, 100, 15, 10, 9);
    sim_case(KV_WHEN_DECODE, 9, 80, 0, 1, 10);
}

/* ------------------------------------------------------------------ ties, memory */

/* Queries of zeros give every key the same probability: the lowest tokens win. */
static void ties(void **state)
{
    (void)state;
    static const char *const specs[] = {"h2o:heavy_size=5,recent_size=3,when=decode",
                                        "h2o-paper:heavy=0.125,recent=0.075"}; /* of 41: 5 and 3 */
    for (int k = 0; k < 2; k++) {
        struct rig g;
        struct feed f;
        struct kv_spec spec;
        struct kv_cache c;
        int64_t heads;
        rig_init(&g, 4, 2, 8, DT_F16);
        feed_init(&f, &g, 45, 3);
        memset(f.q, 0, (size_t)f.n * f.q_row * sizeof *f.q);
        assert_int_equal(kv_spec_parse(&spec, specs[k]), 0);
        assert_int_equal(rig_prompt(&g, &c, &spec, &f, 40, f.n, 64), 0);
        rig_feed(&g, &c, &f, 42, 1);
        uint8_t *seen = seen_next(&c, &heads);
        for (int64_t i = 0; i < heads * 43; i++)
            assert_int_equal(seen[i], i % 43 < 5 || i % 43 >= 39);
        free(seen);
        kv_close(&c);
        kv_spec_free(&spec);
        feed_free(&f);
        rig_free(&g);
    }
}

/* 1,000 tokens at 4x: 125 heavy and 125 recent ones, 64 rows for new ones; nothing else stays. */
static void bytes_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    struct kv_budgets b;
    rig_init(&g, 6, 2, 32, DT_F16);
    feed_init(&f, &g, 1200, 3);
    assert_int_equal(kv_spec_parse(&spec, "h2o:ratio=4"), 0);
    assert_int_equal(rig_prompt(&g, &c, &spec, &f, 1000, 1200, 512), 0);
    const size_t rows = 125 + 125 + 64, row = 2 * 2 * 32 * 2 + 6 * 4 + 2 * (4 + 4 + 1);
    assert_int_equal(rig_used(&g), rows * row);
    g.ops->peak(g.ops, true);
    rig_feed(&g, &c, &f, 1200, 1);
    if (!strcmp(rig_backend, "ref")) /* the fast backend counts its scratch */
        assert_int_equal(g.ops->peak(g.ops, false), rows * row);
    kv_get_budgets(&c, &b);
    assert_near(b.value[KV_KEPT_TOKENS], 250, 0);
    assert_near(b.value[KV_TRUE_RATIO], 1200.0 * 256 / (double)(rows * row), 1e-9);
    kv_close(&c);
    kv_spec_free(&spec);
    feed_free(&f);
    rig_free(&g);
}

/* ------------------------------------------------------------------ knorm */

static double norm_of(const struct feed *f, int64_t hk, int64_t d, int64_t t, int64_t h)
{
    double sum = 0;
    for (int64_t i = 0; i < d; i++)
        sum += (double)f->k[(t * hk + h) * d + i] * (double)f->k[(t * hk + h) * d + i];
    return sum;
}

static void knorm_rule(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec spec;
    struct kv_cache c;
    double want[8];
    rig_init(&g, 4, 2, 8, DT_F32);
    g.shape.kind[0].rope = NULL;
    feed_init(&f, &g, 150, 5);
    memcpy(f.k + 9 * f.k_row, f.k + 3 * f.k_row, f.k_row * sizeof *f.k); /* a tie */
    assert_int_equal(kv_spec_parse(&spec, "knorm:ratio=4"), 0);
    assert_int_equal(rig_prompt(&g, &c, &spec, &f, 111, f.n, 64), 0);
    static struct sim_head head[2];
    for (int64_t h = 0; h < 2; h++) {
        head[h].n = 0;
        for (int64_t t = 0; t < 111; t++) {
            int64_t better = 0;
            for (int64_t i = 0; i < 111; i++) {
                double a = norm_of(&f, 2, 8, i, h), b = norm_of(&f, 2, 8, t, h);
                better += a < b || (a == b && i < t);
            }
            if (better < 27) /* int(111 / 4) */
                head[h].token[head[h].n++] = t;
        }
    }
    const struct sim m = {&g, &f, 0, 0, 111, KV_WHEN_AFTER};
    check_kept(&m, head, &c);
    for (int64_t t = 111; t < 150; t++) {
        assert_int_equal(rig_step(&g, &c, &f, 1), 0);
        for (int64_t h = 0; h < 4; h++) {
            if (h % 2 == 0)
                head[h / 2].token[head[h / 2].n++] = t;
            sim_attend(&m, &head[h / 2], h, t, want);
            for (int64_t i = 0; i < 8; i++)
                assert_near((double)f.out[(t * 4 + h) * 8 + i], want[i], 3e-5);
        }
    }
    check_kept(&m, head, &c);
    kv_close(&c);
    kv_spec_free(&spec);
    feed_free(&f);
    rig_free(&g);
}

/* Of equal tokens the older ones are kept, wherever they stand: RoPE and the rounding to the cache dtype do
 * not count. */
static void knorm_equal_tokens(void **state)
{
    (void)state;
    enum { N = 203, KINDS = 9, KEPT = N / 2 };
    for (int t = 0; t <= DT_BF16; t++) {
        struct rig g;
        struct feed f;
        struct kv_spec spec;
        struct kv_cache c;
        struct kv_dump out[KV_DUMP_MAX];
        int n;
        rig_init(&g, 4, 2, 32, (enum dtype)t);
        assert_non_null(g.shape.kind[0].rope);
        feed_init(&f, &g, N, 7);
        for (size_t i = KINDS; i < N; i++)
            memcpy(f.k + i * f.k_row, f.k + i % KINDS * f.k_row, f.k_row * sizeof *f.k);
        assert_int_equal(kv_spec_parse(&spec, "knorm:ratio=2"), 0);
        assert_int_equal(rig_prompt(&g, &c, &spec, &f, N, N, 64), 0);
        assert_int_equal(kv_dump(&c, out, &n), 0);
        assert_string_equal(out[0].name, "kept");
        assert_int_equal(out[0].n[1], KEPT);
        for (int64_t h = 0; h < 2; h++) {
            const int32_t *kept = (const int32_t *)out[0].data + h * KEPT;
            for (int64_t i = 0, at = 0; i < N; i++) {
                int64_t better = 0;
                for (int64_t j = 0; j < N; j++) {
                    double a = norm_of(&f, 2, 32, j, h), b = norm_of(&f, 2, 32, i, h);
                    better += a < b || (a == b && j < i);
                }
                if (better < KEPT)
                    assert_int_equal(kept[at++], i);
            }
        }
        dump_free(out, n);
        kv_close(&c);
        kv_spec_free(&spec);
        feed_free(&f);
        rig_free(&g);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rig_backend = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(oracle_gqa),         cmocka_unit_test(oracle_mha),
        cmocka_unit_test(h2o_rule),           cmocka_unit_test(ties),
        cmocka_unit_test(bytes_by_hand),      cmocka_unit_test(knorm_rule),
        cmocka_unit_test(knorm_equal_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
