/* Every compressor in every situation: a table of specs × heads × lengths × pieces × batches, the ledger, and
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

/* ------------------------------------------------------------------ specs */

static void spec_texts(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"full", "full", "full"},
        {"kivi", "kivi:bits=2,group=32,residual=128,when=after", "kivi:bits=2"},
        {"kivi:bits=4", "kivi:bits=4,group=32,residual=128,when=after", "kivi:bits=4"},
        {"kivi:when=prefill", "kivi:bits=2,group=32,residual=128,when=prefill", "kivi:when=prefill"},
        {"flexgen", "flexgen:bits=4,group=32,when=prefill", "flexgen:bits=4"},
        {"flexgen:when=decode", "flexgen:bits=4,group=32,when=decode", "flexgen:when=decode"},
        {"flexgen-upstream", "flexgen-upstream:bits=4,group=64,when=after", "flexgen-upstream:bits=4"},
        {"streaming:when=after", "streaming:keep=0.5,init_share=0.021,cap=0,init=0,local=0,when=after",
         "streaming:when=after"},
        {"h2o-paper:ratio=6", "h2o-paper:heavy=0.083,recent=0.083,lag=0",
         "h2o-paper:heavy=0.083,recent=0.083"},
        {"streaming:ratio=6", "streaming:keep=0.17,init_share=0.021,cap=0,init=0,local=0,when=prefill",
         "streaming:keep=0.17"},
        {"streaming:cap=7500,ratio=8",
         "streaming:keep=0.125,init_share=0.021,cap=7500,init=0,local=0,when=prefill",
         "streaming:keep=0.125,cap=7500"},
        {"streaming:init=4,local=1020",
         "streaming:keep=0.5,init_share=0.021,cap=0,init=4,local=1020,when=prefill",
         "streaming:init=4,local=1020"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s, again;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), 0);
        assert_string_equal(s.text, rows[i][1]);
        assert_string_equal(s.label, rows[i][2]);
        assert_int_equal(kv_spec_parse(&again, s.text), 0);
        assert_string_equal(again.text, s.text);
        kv_spec_free(&again);
        kv_spec_free(&s);
    }
}

static void spec_errors(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"kiwi", "did you mean 'kivi'"},
        {"zzzzzz", "known: full, kivi, "},
        {"", "unknown method ''"},
        {"kivi:bits=3", "use one of 2|4"},
        {"kivi:bit=2", "did you mean 'bits'"},
        {"kivi:bits=2,bits=4", "method kivi: bits is given twice, 2 and 4; leave one of them out"},
        {"kivi:group=32,bits=4,residual=64,bits=4", "bits is given twice, 4 and 4"},
        {"streaming:ratio=2,ratio=4", "ratio is given twice, 2 and 4"},
        {"streaming:budget=2MiB,budget=1MiB", "budget is given twice, 2MiB and 1MiB"},
        {"kivi:group=24", "use one of 16|32|64|128"},
        {"kivi:residual=100", "use a multiple of group=32"},
        {"kivi:ratio=4", "it has no 'ratio'"},
        {"kivi:when=during", "use one of prefill|after|decode"},
        {"streaming:when=decode", "use one of prefill|after"},
        {"flexgenn", "did you mean 'flexgen'"},
        {"flexgen:bits=3", "use one of 2|4"},
        {"flexgen:group=48", "use one of 16|32|64|128"},
        {"flexgen:when=", "use one of prefill|after|decode"},
        {"flexgen:ratio=4", "it has no 'ratio'"},
        {"flexgen:residual=0", "unknown parameter 'residual'"},
        {"flexgen-upstream:bits=2", "use one of 4"},
        {"full:bits=2", "unknown parameter 'bits'"},
        {"streaming:ratio=0.5", "use a number from 1"},
        {"streaming:ratio=nan", "use a number from 1"},
        {"streaming:ratio=5000", "from 1 to 1000"},
        {"streaming:keep=1.5", "use a number from"},
        {"streaming:init=4", "give local"},
        {"infllm:topk=4", "topk=4 is not allowed without local"},
        {"infllm:local=400", "use at least piece=512"},
        {"infllm:min_local=100", "use at least piece=512"},
        {"infllm:piece=1024", "use one of 16|32|64|128|256|512"},
        {"infllm:block=2,repr=3", "use at most block=2"},
        {"streaming:keep", "is not key=value"},
        {"h2o-paper:heavy=0,recent=0", "keep something"},
        {"h2o-paper:lag=2", "use one of 0|1"},
        {"h2o:heavy=0,recent=0", "keep something"},
        {"h2o:heavy_size=4", "give recent_size"},
        {"h2o:when=never", "use one of prefill|after|decode"},
        {"knorm:keep=0", "use a number from"},
        {"h2o-paper:ratio=2000", "from 1 to 1000"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i][0]), ERR_INPUT);
        if (!strstr(err_text(), rows[i][1]))
            fail_msg("'%s' gave: %s", rows[i][0], err_text());
        assert_null(s.params);
    }
    struct kv_spec s;
    struct kv_shape shape = {.n_layer = 1, .n_head = 2, .n_kv_head = 2, .head_dim = 80};
    assert_int_equal(kv_spec_parse(&s, "kivi:group=32"), 0);
    assert_int_equal(s.method->check(s.params, &shape), ERR_INPUT);
    assert_non_null(strstr(err_text(), "head dimension 80"));
    kv_spec_free(&s);
    assert_int_equal(kv_spec_parse(&s, "flexgen"), 0);
    assert_int_equal(s.method->check(s.params, &shape), ERR_INPUT);
    assert_non_null(strstr(err_text(), "group=32 is not allowed with a head dimension of 80; use 16"));
    shape.head_dim = 96;
    assert_int_equal(s.method->check(s.params, &shape), 0);
    kv_spec_free(&s);
    assert_int_equal(kv_spec_parse(&s, "flexgen-upstream"), 0);
    assert_int_equal(s.method->check(s.params, &shape), ERR_INPUT);
    assert_non_null(strstr(err_text(), "method flexgen-upstream: group=64"));
    assert_non_null(strstr(err_text(), "use 16 or 32"));
    shape.head_dim = 40;
    assert_int_equal(s.method->check(s.params, &shape), ERR_INPUT);
    assert_non_null(strstr(err_text(), "head dimension 40 is no multiple of any group"));
    kv_spec_free(&s);
}

/* Whatever the text, a spec is refused as bad input or its canonical text means the same again. */
static void spec_fuzz(void **state)
{
    (void)state;
    static const char *const seeds[] = {"kivi:bits=4,group=16,when=prefill", "streaming:ratio=4,cap=7500",
                                        "streaming:keep=0.25,init_share=0.021,cap=0,init=4,local=9", "full:"};
    uint64_t seed = 5;
    int n_good = 0;
    for (int i = 0; i < 20000; i++) {
        char text[96] = {0};
        snprintf(text, sizeof text, "%s", seeds[rig_random(&seed) % 4]);
        for (uint32_t k = rig_random(&seed) % 4; k > 0; k--) {
            size_t at = rig_random(&seed) % (strlen(text) + 1);
            if (rig_random(&seed) % 3)
                text[at] = ":=,.-0123456789aeiklnrst\xff"[rig_random(&seed) % 28];
            else if (at < strlen(text))
                memmove(text + at, text + at + 1, strlen(text + at));
        }
        text[sizeof text - 1] = 0;
        struct kv_spec s, again;
        int rc = kv_spec_parse(&s, text);
        assert_true(rc == 0 || rc == ERR_INPUT);
        if (rc < 0)
            continue;
        assert_int_equal(kv_spec_parse(&again, s.text), 0);
        assert_string_equal(again.text, s.text);
        assert_true(s.nominal_ratio >= 1);
        kv_spec_free(&again);
        kv_spec_free(&s);
        n_good++;
    }
    assert_true(n_good > 1000);
}

static void nominal_ratios(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double ratio;
    } rows[] = {{"full", 1},
                {"kivi:bits=2", 5.05},
                {"kivi:bits=4", 3.11},
                {"flexgen", 3.2},
                {"flexgen-upstream", 16 / 4.5},
                {"streaming:ratio=8", 8},
                {"streaming:ratio=6", 1 / 0.17},
                {"infllm:ratio=6", 1 / 0.17},
                {"infllm:init=4,local=996,topk=10,block=100,piece=256", 5},
                {"streaming:ratio=3", 3},
                {"h2o-paper:ratio=6", 1 / 0.166},
                {"h2o:ratio=8", 8},
                {"h2o:heavy_size=1000,recent_size=1500", 4},
                {"knorm:ratio=3", 3},
                {"h2o-paper:heavy=1,recent=1", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct kv_spec s;
        assert_int_equal(kv_spec_parse(&s, rows[i].text), 0);
        assert_near(s.nominal_ratio, rows[i].ratio, 0.005);
        kv_spec_free(&s);
    }
}

/* ------------------------------------------------------------------ the matrix */

/* Prompt in pieces, then decode one by one; the outputs stay in f->out. */
static void run_alone(const struct rig *g, const char *text, const struct feed *f, int64_t n_prompt,
                      int64_t piece)
{
    struct kv_spec s;
    struct kv_cache c;
    assert_int_equal(kv_spec_parse(&s, text), 0);
    assert_int_equal(rig_prompt(g, &c, &s, f, n_prompt, f->n, piece), 0);
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

static bool shares_pass(const char *text, int64_t n_prompt, const struct kv_shape *shape)
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
    static const int64_t prompts[] = {5, 150}, pieces[] = {512, 64, 1};
    for (int h = 0; h < 2; h++)
        for (int t = 0; t < 2; t++)
            for (int l = 0; l < 2; l++) {
                struct rig g;
                struct feed f;
                rig_init(&g, heads[h][0], heads[h][1], 32, dtypes[t]);
                feed_init(&f, &g, prompts[l] + 40, 7);
                size_t n = (size_t)f.n * f.q_row;
                run_alone(&g, "full", &f, prompts[l], 512);
                float *want = mem_dup(f.out, n * sizeof(float));
                for (int k = 0; k < 3 * N_SPECS; k++) {
                    const struct spec_case *s = &specs[k / 3];
                    memset(f.out, 0, n * sizeof(float));
                    run_alone(&g, s->text, &f, prompts[l], pieces[k % 3]);
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

/* More specs, of which only "the same whatever the pieces and the company" is asked. */
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

static void pieces_do_not_matter(void **state)
{
    (void)state;
    static const int64_t pieces[] = {512, 64, 1, 13};
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < N_MIXED; k++) {
            struct rig g;
            struct feed f;
            if (strstr(mixed[k], "infllm")) /* defined by its pieces: test_kv_infllm.c */
                continue;
            rig_init(&g, heads[h][0], heads[h][1], 16, h ? DT_F16 : DT_F32);
            const bool codes = strstr(mixed[k], "kivi") || strstr(mixed[k], "flexgen");
            if (codes && !strstr(mixed[k], "group=16"))
                g.shape.head_dim = 32, g.rope.n_rot = 32;
            const int64_t n_prompt = codes ? 140 : 520; /* more than one window, more than one piece */
            feed_init(&f, &g, n_prompt + 30, 11);
            size_t bytes = (size_t)f.n * f.q_row * sizeof(float);
            run_alone(&g, mixed[k], &f, n_prompt, 512);
            float *want = mem_dup(f.out, bytes);
            for (size_t p = 1; p < sizeof pieces / sizeof pieces[0]; p++) {
                memset(f.out, 0, bytes);
                run_alone(&g, mixed[k], &f, n_prompt, pieces[p]);
                assert_memory_equal(f.out, want, bytes);
            }
            free(want);
            feed_free(&f);
            rig_free(&g);
        }
}

/* Sequences of all methods and of different lengths in one step equal each alone; decode rows come one or
 * several at a time. */
static void together_as_alone(int64_t rows_at_once)
{
    struct rig g;
    struct feed f[N_MIXED];
    struct kv_spec s[N_MIXED];
    struct kv_cache c[N_MIXED], *at[N_MIXED];
    float *want[N_MIXED];
    rig_init(&g, 4, 2, 32, DT_F16);
    for (int i = 0; i < N_MIXED; i++) {
        int64_t n_prompt = 60 + 29 * (i % 7);
        feed_init(&f[i], &g, n_prompt + 60, 100 + (uint64_t)i);
        run_alone(&g, mixed[i], &f[i], n_prompt, 512);
        want[i] = mem_dup(f[i].out, (size_t)f[i].n * f[i].q_row * sizeof(float));
        memset(f[i].out, 0, (size_t)f[i].n * f[i].q_row * sizeof(float));
        assert_int_equal(kv_spec_parse(&s[i], mixed[i]), 0);
        assert_int_equal(rig_prompt(&g, &c[i], &s[i], &f[i], n_prompt, f[i].n, 512), 0);
        at[i] = &c[i];
    }
    for (int64_t t = 0; t < 60; t += rows_at_once) {
        struct kv_rows r[N_MIXED];
        for (int i = 0; i < N_MIXED; i++)
            r[i] = feed_rows(&f[i], &g, c[i].n, rows_at_once);
        assert_int_equal(kv_step(at, r, N_MIXED), 0);
        for (int i = 0; i < N_MIXED; i++)
            rows_free(&r[i]);
    }
    for (int i = 0; i < N_MIXED; i++) {
        assert_memory_equal(f[i].out, want[i], (size_t)f[i].n * f[i].q_row * sizeof(float));
        kv_close(&c[i]);
        kv_spec_free(&s[i]);
        feed_free(&f[i]);
        free(want[i]);
    }
    rig_free(&g);
}

static void batches(void **state)
{
    (void)state;
    together_as_alone(1);
    together_as_alone(20);
    together_as_alone(60);
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
    static const int64_t prompts[] = {1, 127, 128, 129, 270};
    for (int k = 0; k < N_MIXED; k++)
        for (int l = 0; l < 5; l++) {
            struct rig g;
            struct feed f;
            struct kv_spec s;
            struct kv_cache c;
            /* holds the prompt for one step more */
            const bool one_more = !strncmp(mixed[k], "h2o:", 4) && strstr(mixed[k], "when=decode");
            rig_init(&g, 3, 1, 32, DT_F16);
            feed_init(&f, &g, prompts[l] + 140, 3);
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
                rig_feed(&g, &c, &f, c.n + 40, step ? 1 : 20);
            }
            struct kv_budgets b;
            kv_get_budgets(&c, &b);
            assert_near(b.value[KV_TRUE_RATIO], (double)kv_full_bytes(&g.shape, f.n) / (double)own_bytes(&c),
                        1e-9);
            if (!strcmp(mixed[k], "full"))
                assert_int_equal(own_bytes(&c), kv_full_bytes(&g.shape, f.n));
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
    size_t piece = 200 * (2 * 64 * 2 + 6 * 32 * 4); /* staged k, v; queries for the sinks */
    assert_int_equal(g.ops->peak(g.ops, true), rig_used(&g) + piece);
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
        rig_init(&g, 6, 2, 32, DT_F16);
        feed_init(&f, &g, 203, 9);
        assert_int_equal(kv_spec_parse(&s, mixed[k]), 0);
        int n_failed = 0;
        for (int64_t nth = 1;; nth++) {
            struct kv_cache c;
            ops_fail_alloc(g.ops, nth);
            int rc = rig_prompt(&g, &c, &s, &f, 200, 203, 100);
            ops_fail_alloc(g.ops, 0);
            if (rc == 0) {
                rig_feed(&g, &c, &f, 203, 1);
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
    struct kv_dense *dense = kv_freeze(&owner);
    assert_non_null(dense);
    assert_int_equal(dense->n, 100);
    assert_int_equal(kv_fork(&other, &stream, &g.shape, g.ops, 0, dense, 120), ERR_INTERNAL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kv_fork(&fork[i], &full, &g.shape, g.ops, 0, dense, 120), 0);
        assert_int_equal(shared_bytes(&fork[i]), kv_full_bytes(&g.shape, 120));
        assert_int_equal(own_bytes(&fork[i]) - shared_bytes(&fork[i]), kv_full_bytes(&g.shape, 20));
    }
    assert_int_equal(rig_used(&g), kv_full_bytes(&g.shape, 160));
    kv_dense_unref(dense, g.ops);
    struct kv_cache *all[] = {&owner, &fork[0], &fork[1]};
    for (int i = 0; i < 3; i++) { /* the owner goes on behind the frozen rows, the forks in their own */
        memset(f.out, 0, (at + n) * sizeof(float));
        rig_feed(&g, all[i], &f, 120, 7);
        assert_memory_equal(f.out + at, want, n * sizeof(float));
    }
    assert_null(kv_freeze(&fork[0]));
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
    assert_null(kv_freeze(&c));
    kv_close(&c);
    assert_int_equal(kv_open(&c, &kivi, &g.shape, g.ops, 0, 13, 12), ERR_INTERNAL);
    g.shape.head_dim = 48;
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
        cmocka_unit_test(spec_texts),
        cmocka_unit_test(spec_errors),
        cmocka_unit_test(spec_fuzz),
        cmocka_unit_test(nominal_ratios),
        cmocka_unit_test(identity),
        cmocka_unit_test(pieces_do_not_matter),
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
