/* Every compressor in every situation: a table of specs × heads × lengths × chunks × batches, the ledger, and
 * running out of memory. */
#include "kv_rig.h"

/* One row per method at least: with these parameters the outputs are those of `full`, to the last bit (bound
 * 0) or with a mean absolute error below the bound (values are uniform in -2..2). */
static const struct spec_case {
    const char *text;
    double bound;
} specs[] = {
    {"llmlingua2", 0}, /* the prompt is what it shortens */
    {"full", 0},
    {"streaming:init=4,local=100000", 0},
    {"streaming:init=0,local=100000", 0},
    {"infllm:init=4,local=100000,topk=1", 0},
    {"kivi:bits=4", 0.06},
    {"kivi:bits=2", 0.35},
    {"kivi:bits=4,group=16,residual=32", 0.06},
    {"kivi:bits=4,when=prefill", 0.06},
    {"kivi:bits=2,group=16,residual=32,when=prefill", 0.35},
    {"kivi:bits=4,when=decode", 0.06},
    {"streaming:init=4,local=100000,when=after", 0},
    {"flexgen", 0.06},
    {"flexgen:when=after", 0.06},
    {"flexgen:when=decode", 0.06},
    {"flexgen:bits=2", 0.35},
    {"flexgen-upstream:group=32", 0.06},
    {"flexgen-upstream:group=16,when=prefill", 0.06},
    {"flexgen-upstream:group=32,when=decode", 0.06},
    {"h2o-paper:heavy=0.25,recent=0", 0},
    {"h2o:heavy_size=100000,recent_size=100000", 0},
    {"h2o:heavy_size=0,recent_size=100000,when=prefill", 0},
    {"h2o:heavy_size=100000,recent_size=1,when=decode", 0},
    {"knorm:keep=1", 0},
};
enum { N_SPECS = sizeof specs / sizeof specs[0] };

static const int32_t heads[][2] = {{2, 2}, {3, 1}}; /* MHA, GQA */

static void every_method_is_in_the_table(void **state)
{
    (void)state;
    for (int i = 0; kv_method_at(i); i++) {
        bool found = false;
        size_t n = strlen(kv_method_at(i)->name);
        for (int k = 0; k < N_SPECS; k++)
            found = found || !strncmp(specs[k].text, kv_method_at(i)->name, n);
        if (!found)
            fail_msg("method %s has no row in the table", kv_method_at(i)->name);
        assert_non_null(kv_method_at(i)->source);
        assert_non_null(kv_method_at(i)->summary);
    }
    assert_null(kv_method_at(-1));
}

/* ------------------------------------------------------------------ the matrix */

/* Prompt in chunks, then decode one by one; the outputs stay in f->out. */
static void run_alone(const struct rig *g, const char *text, const struct feed *f, int64_t n_prompt,
                      int64_t chunk)
{
    struct kv_spec s;
    struct kv_cache c;
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(rig_prompt(g, &c, &s, f, n_prompt, f->n, chunk), 0);
    rig_feed(g, &c, f, f->n, 1);
    assert_int_equal(c.n, f->n);
    kv_close(&c);
    kv_spec_free(&s);
}

static double mean_error(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs((double)a[i] - (double)b[i]);
    return sum / (double)n;
}

static bool shares_pass(const char *text, int64_t n_prompt, const struct seq_shape *shape)
{
    struct kv_spec s;
    assert_int_equal(kv_spec_parse(&s, text), 0);
    bool own = needs_own_pass(&s, n_prompt, shape);
    kv_spec_free(&s);
    return !own;
}

static void identity(void **state)
{
    (void)state;
    static const enum dtype dtypes[] = {DT_F32, DT_F16};
    static const int64_t prompts[] = {5, 136}, chunks[] = {512, 64, 1};
    for (int h = 0; h < 2; h++)
        for (int t = 0; t < 2; t++)
            for (int l = 0; l < (h == t ? 2 : 1); l++) { /* long prompts: MHA in f32, GQA in f16 */
                struct rig g;
                struct feed f;
                rig_init(&g, heads[h][0], heads[h][1], 32, dtypes[t]);
                feed_init(&f, &g, prompts[l] + 30, 7);
                size_t n = (size_t)f.n * f.q_row;
                run_alone(&g, "full", &f, prompts[l], 512);
                float *want = mem_dup(f.out, n * sizeof(float));
                for (int k = 0; k < 3 * N_SPECS; k++) {
                    const struct spec_case *s = &specs[k / 3];
                    memset(f.out, 0, n * sizeof(float));
                    run_alone(&g, s->text, &f, prompts[l], chunks[k % 3]);
                    if (s->bound == 0)
                        assert_memory_equal(f.out, want, n * sizeof(float));
                    size_t at = (size_t)prompts[l] * f.q_row; /* a shared prompt pass is exact for everyone */
                    if (shares_pass(s->text, prompts[l], &g.shape))
                        assert_memory_equal(f.out, want, at * sizeof(float));
                    else if (mean_error(f.out, want, at) > s->bound)
                        fail_msg("%s: prompt of %d, mean error %g", s->text, (int)prompts[l],
                                 mean_error(f.out, want, at));
                    double err = mean_error(f.out + at, want + at, n - at);
                    if (err > s->bound)
                        fail_msg("%s: mean error %g with a prompt of %d", s->text, err, (int)prompts[l]);
                }
                free(want);
                feed_free(&f);
                rig_free(&g);
            }
}

/* More specs, of which only "the same whatever the chunks and the company" is asked. */
static const char *const mixed[] = {"full",
                                    "kivi:bits=2",
                                    "streaming:ratio=4",
                                    "kivi:bits=4,residual=32",
                                    "kivi:bits=4,when=prefill",
                                    "kivi:bits=2,group=16,residual=48,when=prefill",
                                    "kivi:bits=4,group=16,residual=32,when=decode",
                                    "streaming:init=3,local=7,when=after",
                                    "flexgen",
                                    "flexgen:group=16,when=after",
                                    "flexgen:group=16,when=decode",
                                    "flexgen-upstream:group=32",
                                    "flexgen-upstream:group=16,when=prefill",
                                    "flexgen-upstream:group=16,when=decode",
                                    "streaming:init=3,local=7",
                                    "infllm:init=3,local=20,topk=2,block=8,piece=16,repr=2",
                                    "infllm:ratio=2,min_local=32,piece=32,block=4",
                                    "infllm:init=0,local=16,topk=0,block=8,piece=16",
                                    "full",
                                    "streaming:init=0,local=1",
                                    "streaming:ratio=2,init_share=0.5",
                                    "kivi:bits=2,group=16,residual=16",
                                    "h2o-paper:ratio=4",
                                    "h2o:ratio=4",
                                    "h2o:ratio=8,when=prefill",
                                    "h2o:heavy=0.1,recent=0,when=decode",
                                    "h2o:heavy_size=0,recent_size=1",
                                    "knorm:ratio=4",
                                    "h2o-paper:heavy=0.01,recent=0.125,lag=1"};
enum { N_MIXED = sizeof mixed / sizeof mixed[0] };

static void chunks_do_not_matter(void **state)
{
    (void)state;
    static const int64_t chunks[] = {128, 64, 1, 13};
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < N_MIXED; k++) {
            struct rig g;
            struct feed f;
            if (strstr(mixed[k], "infllm")) /* defined by its chunks: test_kv_infllm.c */
                continue;
            rig_init(&g, heads[h][0], heads[h][1], 16, h ? DT_F16 : DT_F32);
            const bool codes = strstr(mixed[k], "kivi") || strstr(mixed[k], "flexgen");
            if (codes && !strstr(mixed[k], "group=16"))
                rig_width(&g, 32);
            const int64_t n_prompt = codes ? 140 : 200; /* more than one window, more than one chunk */
            feed_init(&f, &g, n_prompt + 30, 11);
            size_t bytes = (size_t)f.n * f.q_row * sizeof(float);
            run_alone(&g, mixed[k], &f, n_prompt, chunks[0]);
            float *want = mem_dup(f.out, bytes);
            for (size_t p = 1; p < sizeof chunks / sizeof chunks[0]; p++) {
                memset(f.out, 0, bytes);
                run_alone(&g, mixed[k], &f, n_prompt, chunks[p]);
                assert_memory_equal(f.out, want, bytes);
            }
            free(want);
            feed_free(&f);
            rig_free(&g);
        }
}

/* One sequence of every kind, of different lengths, and what each gives alone. */
struct crowd {
    struct rig rig;
    struct feed f[N_MIXED];
    float *want[N_MIXED];
};

enum { CROWD_STEPS = 40 };

static int64_t crowd_prompt(int i)
{
    return 40 + 15 * (i % 7);
}

static size_t crowd_bytes(const struct feed *f)
{
    return (size_t)f->n * f->q_row * sizeof(float);
}

/* All in one step equal each alone; decode rows come one or several at a time. */
static void together_as_alone(struct crowd *w, int64_t rows_at_once)
{
    struct kv_spec s[N_MIXED];
    struct kv_cache c[N_MIXED], *at[N_MIXED];
    struct feed *f = w->f;
    for (int i = 0; i < N_MIXED; i++) {
        memset(f[i].out, 0, crowd_bytes(&f[i]));
        assert_int_equal(kv_spec_parse(&s[i], mixed[i]), 0);
        assert_int_equal(rig_prompt(&w->rig, &c[i], &s[i], &f[i], crowd_prompt(i), f[i].n, 512), 0);
        at[i] = &c[i];
    }
    for (int64_t t = 0; t < CROWD_STEPS; t += rows_at_once) {
        struct kv_rows r[N_MIXED];
        for (int i = 0; i < N_MIXED; i++)
            r[i] = feed_rows(&f[i], &w->rig, c[i].n, rows_at_once);
        assert_int_equal(kv_step(at, r, N_MIXED), 0);
        for (int i = 0; i < N_MIXED; i++)
            rows_free(&r[i]);
    }
    for (int i = 0; i < N_MIXED; i++) {
        assert_memory_equal(f[i].out, w->want[i], crowd_bytes(&f[i]));
        kv_close(&c[i]);
        kv_spec_free(&s[i]);
    }
}

static void batches(void **state)
{
    (void)state;
    struct crowd w;
    rig_init(&w.rig, 4, 2, 32, DT_F16);
    for (int i = 0; i < N_MIXED; i++) {
        feed_init(&w.f[i], &w.rig, crowd_prompt(i) + CROWD_STEPS, 100 + (uint64_t)i);
        run_alone(&w.rig, mixed[i], &w.f[i], crowd_prompt(i), 512);
        w.want[i] = mem_dup(w.f[i].out, crowd_bytes(&w.f[i]));
    }
    together_as_alone(&w, 1);
    together_as_alone(&w, 20);
    together_as_alone(&w, CROWD_STEPS);
    for (int i = 0; i < N_MIXED; i++) {
        feed_free(&w.f[i]);
        free(w.want[i]);
    }
    rig_free(&w.rig);
}

/* ------------------------------------------------------------------ memory */

static uint64_t own_bytes(const struct kv_cache *c)
{
    struct kv_ledger l = {0};
    kv_bytes(c, &l);
    return kv_ledger_total(&l);
}

static void ledger_is_the_allocators(void **state)
{
    (void)state;
    static const int64_t prompts[] = {1, 127, 128, 129, 250};
    for (int k = 0; k < N_MIXED; k++)
        for (int l = 0; l < 5; l++) {
            struct rig g;
            struct feed f;
            struct kv_spec s;
            struct kv_cache c;
            /* holds the prompt for one step more */
            const bool one_more = !strncmp(mixed[k], "h2o:", 4) && strstr(mixed[k], "when=decode");
            rig_init(&g, 2, 1, 32, DT_F16);
            feed_init(&f, &g, prompts[l] + 60, 3);
            assert_int_equal(kv_spec_parse(&s, mixed[k]), 0);
            assert_int_equal(rig_prompt(&g, &c, &s, &f, prompts[l], f.n, 64), 0);
            for (int step = 0; step < 3; step++) {
                struct kv_ledger led = {0}, predicted;
                kv_bytes(&c, &led);
                assert_int_equal(led.shared, 0);
                assert_int_equal(kv_predict(&s, &g.shape, prompts[l], f.n, &predicted), 0);
                for (int kind = 0; kind < MEM_KIND_N; kind++)
                    for (int place = 0; place < PLACE_N; place++) {
                        assert_int_equal(led.bytes[kind][place],
                                         g.ops->used(g.ops, (enum mem_kind)kind, (enum mem_place)place));
                        if (step || !one_more) /* predicted is what stays */
                            assert_int_equal(predicted.bytes[kind][place], led.bytes[kind][place]);
                    }
                rig_feed(&g, &c, &f, c.n + 16, step ? 1 : 8);
            }
            struct kv_budgets b;
            kv_get_budgets(&c, &b);
            assert_near(b.value[KV_TRUE_RATIO],
                        (double)shape_full_bytes(&g.shape, f.n) / (double)own_bytes(&c), 1e-9);
            if (!strcmp(mixed[k], "full"))
                assert_int_equal(own_bytes(&c), shape_full_bytes(&g.shape, f.n));
            kv_close(&c);
            kv_spec_free(&s);
            feed_free(&f);
            rig_free(&g);
        }
}

/* Codes, scales and windows by hand: 1,000 tokens, 2 KV heads of 32, f16 cache. */
static void kivi_bytes_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct kv_spec s;
    struct kv_cache c;
    struct kv_ledger l = {0};
    rig_init(&g, 6, 2, 32, DT_F16);
    assert_int_equal(kv_spec_parse(&s, "kivi:bits=2"), 0);
    assert_int_equal(kv_open(&c, &s, &g.shape, g.ops, 0, 0, 1000), 0);
    kv_bytes(&c, &l);
    assert_int_equal(l.bytes[MEM_CODES][PLACE_DEVICE], (896 + 872) * 64 * 2 / 8);
    assert_int_equal(l.bytes[MEM_SCALES][PLACE_DEVICE], (896 / 32 * 64 + 872 * 2) * 4);
    assert_int_equal(l.bytes[MEM_WINDOW][PLACE_DEVICE], (128 + 129) * 64 * 2);
    kv_close(&c);
    kv_spec_free(&s);
    rig_free(&g);
}

/* Streaming never holds more than sinks, window and one query row between steps. */
static void streaming_bytes_by_hand(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec s;
    struct kv_cache c;
    rig_init(&g, 6, 2, 32, DT_F16);
    feed_init(&f, &g, 700, 5);
    assert_int_equal(kv_spec_parse(&s, "streaming:init=4,local=60"), 0);
    assert_int_equal(kv_open(&c, &s, &g.shape, g.ops, 0, 600, 700), 0);
    assert_int_equal(rig_used(&g), 64 * 2 * 64 * 2 + 6 * 32 * 4);
    g.ops->peak(g.ops, true);
    rig_feed(&g, &c, &f, 600, 200);
    assert_int_equal(rig_used(&g), 64 * 2 * 64 * 2 + 6 * 32 * 4);
    size_t chunk = 200 * (2 * 64 * 2 + 6 * 32 * 4); /* staged k, v; queries for the sinks */
    assert_int_equal(g.ops->peak(g.ops, true), rig_used(&g) + chunk);
    rig_feed(&g, &c, &f, 700, 1);
    assert_int_equal(g.ops->peak(g.ops, false), rig_used(&g));
    struct kv_budgets b;
    kv_get_budgets(&c, &b);
    assert_near(b.value[KV_N_INIT], 4, 0);
    assert_near(b.value[KV_N_LOCAL], 60, 0);
    assert_near(b.value[KV_KEPT_TOKENS], 64, 0);
    assert_true(isnan(b.value[KV_TOPK]));
    kv_close(&c);
    kv_spec_free(&s);
    feed_free(&f);
    rig_free(&g);
}

/* Fails the 1st, 2nd, ... allocation of a prompt with three decode steps until none fails. */
static void out_of_memory(void **state)
{
    (void)state;
    for (int k = 0; k < N_MIXED; k++) {
        struct rig g;
        struct feed f;
        struct kv_spec s;
        rig_init(&g, 2, 1, 32, DT_F16);
        feed_init(&f, &g, 143, 9);
        assert_int_equal(kv_spec_parse(&s, mixed[k]), 0);
        int n_failed = 0;
        for (int64_t nth = 1;; nth++) {
            struct kv_cache c;
            ops_fail_alloc(g.ops, nth);
            int rc = rig_prompt(&g, &c, &s, &f, 140, 143, 100);
            ops_fail_alloc(g.ops, 0);
            if (rc == 0) {
                rig_feed(&g, &c, &f, 143, 1);
                kv_close(&c);
                break;
            }
            assert_int_equal(rc, ERR_NOMEM);
            assert_non_null(strstr(err_text(), "no memory on ref for"));
            assert_int_equal(rig_used(&g), 0);
            n_failed++;
        }
        assert_true(n_failed >= 2);
        kv_spec_free(&s);
        feed_free(&f);
        rig_free(&g);
    }
}

static uint64_t shared_bytes(const struct kv_cache *c)
{
    struct kv_ledger l = {0};
    kv_bytes(c, &l);
    return l.shared;
}

/* One frozen prompt under two forks and its first owner; whoever leaves last frees it. */
static void sharing(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec full, stream;
    struct kv_cache owner, fork[2], other;
    rig_init(&g, 6, 2, 32, DT_F16);
    feed_init(&f, &g, 120, 13);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_spec_parse(&stream, "streaming:ratio=2"), 0);
    run_alone(&g, "full", &f, 100, 512);
    size_t at = 100 * f.q_row, n = 20 * f.q_row;
    float *want = mem_dup(f.out + at, n * sizeof(float));

    assert_int_equal(kv_open(&owner, &full, &g.shape, g.ops, 0, 100, 120), 0);
    rig_feed(&g, &owner, &f, 100, 512);
    struct kv_dense *dense, *none;
    assert_int_equal(kv_freeze(&owner, &dense), 0);
    assert_non_null(dense);
    assert_int_equal(dense->n, 100);
    assert_int_equal(kv_fork(&other, &stream, &g.shape, g.ops, 0, dense, 120), ERR_INTERNAL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kv_fork(&fork[i], &full, &g.shape, g.ops, 0, dense, 120), 0);
        assert_int_equal(shared_bytes(&fork[i]), shape_full_bytes(&g.shape, 120));
        assert_int_equal(own_bytes(&fork[i]) - shared_bytes(&fork[i]), shape_full_bytes(&g.shape, 20));
    }
    assert_int_equal(rig_used(&g), shape_full_bytes(&g.shape, 160));
    kv_dense_unref(dense, g.ops);
    struct kv_cache *all[] = {&owner, &fork[0], &fork[1]};
    for (int i = 0; i < 3; i++) { /* the owner goes on behind the frozen rows, the forks in their own */
        memset(f.out, 0, (at + n) * sizeof(float));
        rig_feed(&g, all[i], &f, 120, 7);
        assert_memory_equal(f.out + at, want, n * sizeof(float));
    }
    assert_int_equal(kv_freeze(&fork[0], &none), ERR_INTERNAL);
    kv_close(&owner);
    kv_close(&fork[0]);
    assert_int_equal(shared_bytes(&fork[1]), 0);
    kv_close(&fork[1]);
    kv_close(&fork[1]); /* a closed cache may be closed again */
    free(want);
    kv_spec_free(&full);
    kv_spec_free(&stream);
    feed_free(&f);
    rig_free(&g);
}

static void wrong_rows(void **state)
{
    (void)state;
    struct rig g;
    struct feed f;
    struct kv_spec full, kivi;
    struct kv_cache c, *p = &c;
    rig_init(&g, 4, 4, 32, DT_F32);
    feed_init(&f, &g, 20, 1);
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    assert_int_equal(kv_spec_parse(&kivi, "kivi"), 0);
    assert_int_equal(kv_open(&c, &full, &g.shape, g.ops, 0, 10, 12), 0);
    struct kv_rows r = feed_rows(&f, &g, 5, 3), many = feed_rows(&f, &g, 0, 13);
    assert_int_equal(kv_step(&p, &r, 1), ERR_INTERNAL);
    assert_int_equal(kv_step(&p, &many, 1), ERR_INTERNAL);
    assert_int_equal(c.n, 0);
    rows_free(&r);
    rows_free(&many);
    kv_close(&c);
    assert_int_equal(kv_open(&c, &kivi, &g.shape, g.ops, 0, 10, 12), 0);
    assert_int_equal(rig_step(&g, &c, &f, 1), ERR_INTERNAL);
    struct kv_dense *none;
    assert_int_equal(kv_freeze(&c, &none), ERR_INTERNAL);
    kv_close(&c);
    assert_int_equal(kv_open(&c, &kivi, &g.shape, g.ops, 0, 13, 12), ERR_INTERNAL);
    rig_width(&g, 48);
    assert_int_equal(kv_open(&c, &kivi, &g.shape, g.ops, 0, 10, 12), ERR_INPUT);
    kv_spec_free(&full);
    kv_spec_free(&kivi);
    feed_free(&f);
    rig_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_is_in_the_table),
        cmocka_unit_test(identity),
        cmocka_unit_test(chunks_do_not_matter),
        cmocka_unit_test(batches),
        cmocka_unit_test(ledger_is_the_allocators),
        cmocka_unit_test(kivi_bytes_by_hand),
        cmocka_unit_test(streaming_bytes_by_hand),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(sharing),
        cmocka_unit_test(wrong_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
