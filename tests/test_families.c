/* Families, and models of the llama family with layers or rotations of their own, against their reference
 * implementations (float32; tests/oracle/family_make.py) and against themselves: prefill chunks, batches of
 * unequal lengths, forks, resumed decode. */
#include "model_common.h"
#include "scratch.h"

#include <unistd.h>

static const char *const backends[] = {"ref", "cpu"};
static const char *const fixtures[] = {
    "fixtures/family/mamba",           "fixtures/family/mamba_ms",   "fixtures/family/mamba_gguf",
    "fixtures/family/mamba2",          "fixtures/family/mamba2_ms",  "fixtures/family/mamba2_gguf",
    "fixtures/family/rwkv5",           "fixtures/family/rwkv5_bf16", "fixtures/family/griffin",
    "fixtures/family/qwen3",           "fixtures/family/qwen3_gguf", "fixtures/family/qwen2_yarn",
    "fixtures/family/qwen2_yarn_gguf", "fixtures/family/llama32",    "fixtures/family/mistral_window",
    "fixtures/family/qwen2_window",    "fixtures/family/gemma3",     "fixtures/family/gemma3_old",
    "fixtures/family/gemma3_images",   "fixtures/family/gemma3_gguf"};
enum {
    FIXTURES = sizeof fixtures / sizeof *fixtures,
    CACHE_FREE = 9
}; /* the first keep no cache that grows */

/* Between passes of other shapes: the plain loops compute every row alike, libraries need not. */
static double tolerance(const char *backend)
{
    return strcmp(backend, "ref") == 0 ? 0 : 1e-4;
}

/* oracle.bin: logits after some of the prompt's tokens, then greedy tokens with the gap to the second best.
 */
struct oracle {
    char *raw;
    int n_prompt, n_greedy, n_vocab, n_rows;
    const int32_t *row, *ids;  /* [n_rows]; prompt, then greedy */
    const float *logits, *gap; /* [n_rows,n_vocab], [n_greedy] */
};

static void oracle_read(struct oracle *o, const char *dir)
{
    char *path = file_join(dir, "oracle.bin");
    size_t n;
    OK(file_read(path, &o->raw, &n));
    free(path);
    const int32_t *head = (const int32_t *)(const void *)o->raw;
    o->n_prompt = head[0];
    o->n_greedy = head[1];
    o->n_vocab = head[2];
    o->n_rows = head[3];
    o->row = head + 4;
    o->ids = o->row + o->n_rows;
    o->logits = (const float *)(const void *)(o->ids + o->n_prompt + o->n_greedy);
    o->gap = o->logits + o->n_rows * o->n_vocab;
    assert_int_equal(n, (size_t)((const char *)(o->gap + o->n_greedy) - o->raw));
}

/* The model of a fixture: its GGUF file where it has one, else the folder. */
static void open_fixture(struct rig *r, const char *dir, const char *backend, enum dtype dtype)
{
    char *gguf = file_join(dir, "model.gguf");
    rig_open(r, file_exists(gguf) ? gguf : dir, backend, dtype, false);
    free(gguf);
}

/* A prompt of each length by itself gives the reference's logits of its last token. */
static double check_lengths(struct rig *r, const struct oracle *o)
{
    double worst = 0;
    for (int i = 0; i < o->n_rows; i++) {
        struct seq s;
        const int64_t n = o->row[i] + 1;
        OK(seq_open(&s, r->m, &r->shape, &r->full, n, n));
        double d = max_diff(step(r, &s, o->ids, n, LOGITS_LAST), o->logits + i * o->n_vocab, o->n_vocab);
        worst = d > worst ? d : worst;
        seq_close(&s);
    }
    return worst;
}

static void check_greedy(struct rig *r, const struct oracle *o)
{
    struct seq s;
    OK(seq_open(&s, r->m, &r->shape, &r->full, o->n_prompt, o->n_prompt + o->n_greedy));
    const float *out = step(r, &s, o->ids, o->n_prompt, LOGITS_LAST);
    for (int i = 0; i < o->n_greedy; i++) {
        if (o->gap[i] > 1e-3f)
            assert_int_equal(argmax(out, o->n_vocab), o->ids[o->n_prompt + i]);
        out = step(r, &s, o->ids + o->n_prompt + i, 1, LOGITS_LAST);
    }
    seq_close(&s);
}

static void test_oracles(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FIXTURES; i++) {
        struct rig r;
        struct oracle o;
        if (!have_backend(backends[i % 2]))
            continue;
        oracle_read(&o, fixtures[i / 2]);
        open_fixture(&r, fixtures[i / 2], backends[i % 2], DT_F32);
        assert_int_equal(model_config(r.m)->n_vocab, o.n_vocab);
        double worst = check_lengths(&r, &o);
        print_message("%s %s: max |delta logit| %.2g\n", fixtures[i / 2], backends[i % 2], worst);
        assert_true(worst <= 1e-3);
        check_greedy(&r, &o);
        rig_close(&r);
        free(o.raw);
    }
}

/* What a sequence takes is what its shape says, at any length, and what was predicted. */
static void check_bytes(struct rig *r)
{
    for (int64_t n = 1; n < 1000; n += 333) {
        struct seq s;
        struct kv_ledger l = {0}, predicted = {0};
        OK(seq_open(&s, r->m, &r->shape, &r->full, n, n));
        seq_bytes(&s, &l);
        OK(kv_predict(&r->full, &r->shape, n, n, &predicted));
        assert_int_equal(kv_ledger_total(&l), kv_ledger_total(&predicted));
        seq_close(&s);
    }
}

/* RecurrentGemma as transformers 4.40 computes it: an option of the sequence. Its default gives other
 * answers. */
static void test_griffin_bug(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rig r;
        struct oracle o;
        struct model_overrides over = {.rope_theta_factor = 1};
        if (!have_backend(backends[i]))
            continue;
        oracle_read(&o, "fixtures/family/griffin_hf_bug");
        open_fixture(&r, "fixtures/family/griffin", backends[i], DT_F32);
        assert_true(check_lengths(&r, &o) > 0.1);
        OK(family_params_set(family_find("recurrent_gemma"), &over.options, "attention_mask=hf_bug", "test"));
        OK(model_seq_shape(r.m, r.shape.dtype, &over, &r.shape));
        const double worst = check_lengths(&r, &o);
        print_message("hf_bug %s: max |delta logit| %.2g\n", backends[i], worst);
        assert_true(worst <= 1e-3);
        check_greedy(&r, &o);
        check_bytes(&r);
        rig_close(&r);
        free(o.raw);
    }
}

/* The logits of every token of a pass that is cut at these places. */
static float *pass(struct rig *r, const struct oracle *o, int64_t n, const int64_t *cuts)
{
    const int64_t V = o->n_vocab;
    float *all = mem_alloc((size_t)(n * V), sizeof *all);
    struct seq s;
    OK(seq_open(&s, r->m, &r->shape, &r->full, n, n));
    for (int64_t at = 0, k = 0, to; at < n; at = to) {
        to = cuts && cuts[k] && cuts[k] < n ? cuts[k++] : n;
        memcpy(all + at * V, step(r, &s, o->ids + at, to - at, LOGITS_ALL),
               (size_t)((to - at) * V) * sizeof *all);
    }
    seq_close(&s);
    return all;
}

static void check_chunks(struct rig *r, const struct oracle *o, double tol)
{
    static const int64_t cuts[][8] = {{1, 2, 3, 0}, {7, 64, 65, 130, 0}, {128, 0}};
    const int64_t n = 150, V = o->n_vocab;
    float *whole = pass(r, o, n, NULL);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        float *part = pass(r, o, n, cuts[i]);
        assert_true(max_diff(whole, part, n * V) <= tol);
        free(part);
    }
    free(whole);
}

/* Three sequences together, prompts and decode steps mixed, give what each gives alone. */
static void check_batch(struct rig *r, const struct oracle *o, double tol)
{
    static const int64_t part[3][3] = {{9, 1, 5}, {1, 8, 1}, {70, 1, 30}}; /* tokens per pass */
    const int64_t V = o->n_vocab;
    struct seq s[3], alone;
    struct batch_item it[3];
    struct tensor logits;
    float *got = mem_alloc((size_t)(9 * V), sizeof *got);
    int64_t at[3] = {0};
    for (int i = 0; i < 3; i++)
        OK(seq_open(&s[i], r->m, &r->shape, &r->full, part[i][0], 110));
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 3; at[i] += part[i][k], i++)
            it[i] = (struct batch_item){&s[i], o->ids + 10 * i + at[i], part[i][k]};
        OK(model_forward(r->m, it, 3, LOGITS_LAST, &logits));
        memcpy(got + 3 * k * V, logits.data, (size_t)(3 * V) * sizeof *got);
    }
    for (int i = 0; i < 3; i++) {
        OK(seq_open(&alone, r->m, &r->shape, &r->full, part[i][0], 110));
        for (int64_t k = 0, from = 10 * i; k < 3; from += part[i][k++])
            assert_true(max_diff(step(r, &alone, o->ids + from, part[i][k], LOGITS_LAST),
                                 got + (3 * k + i) * V, V) <= tol);
        assert_int_equal(alone.pos, s[i].pos);
        seq_close(&alone);
        seq_close(&s[i]);
    }
    free(got);
}

/* Token by token from short prompts on: over the edge of a window, which the shorter ones have not filled. */
static void check_decode(struct rig *r, const struct oracle *o, double tol)
{
    static const int64_t prompt[] = {1, 23, 24, 25};
    const int64_t n = 60, V = o->n_vocab;
    float *whole = pass(r, o, n, NULL);
    for (size_t i = 0; i < sizeof prompt / sizeof *prompt; i++) {
        struct seq s;
        OK(seq_open(&s, r->m, &r->shape, &r->full, prompt[i], n));
        step(r, &s, o->ids, prompt[i], LOGITS_NONE);
        for (int64_t t = prompt[i]; t < n; t++)
            assert_true(max_diff(step(r, &s, o->ids + t, 1, LOGITS_LAST), whole + t * V, V) <= tol);
        seq_close(&s);
    }
    free(whole);
}

/* A prompt is frozen; two forks and the sequence itself go on, each with tokens of its own in between. */
static void check_forks(struct rig *r, const struct oracle *o, int64_t n, double tol)
{
    const int64_t V = o->n_vocab;
    struct seq plain, s, fork[2];
    struct seq_prompt p;
    float *want = mem_alloc((size_t)(6 * V), sizeof *want);
    OK(seq_open(&plain, r->m, &r->shape, &r->full, n, n + 6));
    step(r, &plain, o->ids, n, LOGITS_NONE);
    for (int i = 0; i < 6; i++)
        memcpy(want + i * V, step(r, &plain, o->ids + n + i, 1, LOGITS_LAST), (size_t)V * sizeof *want);
    OK(seq_open(&s, r->m, &r->shape, &r->full, n, n + 6));
    step(r, &s, o->ids, n, LOGITS_NONE);
    OK(seq_freeze(&s, &p));
    for (int i = 0; i < 2; i++)
        OK(seq_fork(&fork[i], r->m, &r->shape, &r->full, &p, n + 6));
    seq_prompt_close(&p);
    for (int i = 0; i < 6; i++) {
        assert_true(max_diff(step(r, &fork[0], o->ids + n + i, 1, LOGITS_LAST), want + i * V, V) <= tol);
        const int32_t other = (o->ids[n + i] + 1) % (int32_t)V;
        assert_true(max_diff(step(r, &fork[1], &other, 1, LOGITS_LAST), want + i * V, V) > 1e-3);
        assert_true(max_diff(step(r, &s, o->ids + n + i, 1, LOGITS_LAST), want + i * V, V) <= tol);
    }
    seq_close(&s);
    seq_close(&fork[0]);
    seq_close(&fork[1]);
    seq_close(&plain);
    free(want);
}

static void test_ways(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FIXTURES; i++) {
        struct rig r;
        struct oracle o;
        const char *backend = backends[i % 2];
        if (i / 2 > CACHE_FREE && strstr(fixtures[i / 2], "_gguf")) /* the same weights as a folder's */
            continue;
        if (!have_backend(backend))
            continue;
        oracle_read(&o, fixtures[i / 2]);
        open_fixture(&r, fixtures[i / 2], backend, DT_F32);
        check_chunks(&r, &o, tolerance(backend));
        check_batch(&r, &o, tolerance(backend));
        check_decode(&r, &o, tolerance(backend));
        check_forks(&r, &o, 22, tolerance(backend)); /* before the window of one fixture is full */
        check_forks(&r, &o, 24, tolerance(backend)); /* that of others just so */
        check_forks(&r, &o, 100, tolerance(backend));
        check_bytes(&r);
        rig_close(&r);
        free(o.raw);
    }
}

/* 16-bit weights: finite, and near the reference. */
static void test_16_bit(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * FIXTURES; i++) {
        struct rig r;
        struct oracle o;
        struct seq s;
        const enum dtype dtype = i % 2 ? DT_F16 : DT_BF16;
        oracle_read(&o, fixtures[i / 2]);
        open_fixture(&r, fixtures[i / 2], have_backend("cpu") ? "cpu" : "ref", dtype);
        OK(seq_open(&s, r.m, &r.shape, &r.full, o.n_prompt, o.n_prompt));
        const float *out = step(&r, &s, o.ids, o.n_prompt, LOGITS_LAST);
        const float *want = o.logits + (o.n_rows - 1) * o.n_vocab;
        double sum = 0;
        for (int v = 0; v < o.n_vocab; v++)
            sum += fabs((double)out[v] - (double)want[v]) / o.n_vocab;
        print_message("%s %s: mean |delta logit| %.2g\n", fixtures[i / 2], dtype_name(dtype), sum);
        assert_true(sum < (dtype == DT_F16 ? 0.1 : 0.7));
        seq_close(&s);
        rig_close(&r);
        free(o.raw);
    }
}

/* A compressor has no layer to act on, and says so before any weight is read. */
static void test_no_cache(void **state)
{
    (void)state;
    for (int i = 0; i < CACHE_FREE; i++) {
        struct model_file *f;
        struct seq_shape shape;
        struct kv_spec spec;
        if (strstr(fixtures[i], "gguf"))
            continue;
        OK(model_file_open(&f, fixtures[i]));
        model_config_shape(model_file_config(f), DT_F16, NULL, &shape);
        OK(kv_spec_parse(&spec, "kivi:bits=2"));
        assert_int_equal(kv_spec_check(&spec, &shape), ERR_INPUT);
        kv_spec_free(&spec);
        model_file_close(f);
    }
}

static void shape_of(const char *dir, struct seq_shape *s)
{
    struct model_file *f;
    OK(model_file_open(&f, dir));
    model_config_shape(model_file_config(f), DT_F16, NULL, s);
    model_file_close(f);
}

/* On a model that slides in all its layers, StreamingLLM must be asked for it by window_layers; on one that
 * slides in half of them, methods act on the others, and true_ratio is that of the whole sequence. */
static void test_windows(void **state)
{
    (void)state;
    struct seq_shape all, half;
    struct kv_spec spec;
    struct kv_ledger l;
    shape_of("fixtures/family/mistral_window", &all);
    shape_of("fixtures/family/qwen2_window", &half);
    assert_true(all.n_kind == 1 && all.kind[0].window == 24 && half.n_kind == 2);
    OK(kv_spec_parse(&spec, "streaming:keep=0.5"));
    assert_int_equal(kv_spec_check(&spec, &all), ERR_INPUT);
    assert_non_null(strstr(err_text(), "without window_layers=1"));
    OK(kv_spec_check(&spec, &half));
    OK(kv_predict(&spec, &half, 300, 300, &l));
    /* 150 of 300 tokens and a query in two layers; windows of 24 in two others */
    const uint64_t row = 2 * 2 * 12 * 2, query = 4 * 12 * 4;
    assert_int_equal(kv_ledger_total(&l), 2 * (150 * row + query) + 2 * 24 * row);
    kv_spec_free(&spec);
    OK(kv_spec_parse(&spec, "streaming:keep=0.5,window_layers=1"));
    OK(kv_spec_check(&spec, &all));
    kv_spec_free(&spec);
}

/* Opens a sequence of a method and shows it the prompt: in a pass of its own, or as a fork of a plain one. */
static void open_method(struct rig *r, const struct oracle *o, const struct kv_spec *spec, int64_t n,
                        int64_t n_max, struct seq *s)
{
    struct seq plain;
    struct seq_prompt p;
    if (kv_prefill_key(spec, n, &r->shape)) {
        OK(seq_open(s, r->m, &r->shape, spec, n, n_max));
        step(r, s, o->ids, n - 1, LOGITS_NONE);
        step(r, s, o->ids + n - 1, 1, LOGITS_NONE);
        return;
    }
    OK(seq_open_prompt(&plain, r->m, &r->shape, &r->full, n, kv_wants(spec)));
    step(r, &plain, o->ids, n, LOGITS_NONE);
    OK(seq_freeze(&plain, &p));
    OK(seq_fork(s, r->m, &r->shape, spec, &p, n_max));
    seq_prompt_close(&p);
    seq_close(&plain);
}

/* Parameters that change nothing give what the model without a method gives, where two of four layers slide;
 * what a sequence takes is what was predicted, also of those that change something. */
static void test_methods_beside_windows(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool same;
    } cases[] = {{"knorm:keep=1", true},
                 {"knorm:keep=0.25", false},
                 {"knorm:keep=0.25,skip_layers=1", false},
                 {"h2o:heavy=1,recent=1", true},
                 {"h2o:heavy=0.1,recent=0.1,skip_layers=0", false},
                 {"h2o:heavy=0.1,recent=0.1,when=prefill", false},
                 {"h2o-paper:heavy=1,recent=1", true},
                 {"streaming:init=4,local=1000", true},
                 {"streaming:init=4,local=1000,window_layers=1", true},
                 {"streaming:keep=0.5,window_layers=1,skip_layers=0", false},
                 {"streaming:keep=0.5,when=after", false},
                 {"infllm:local=512", true}};
    enum { N = 100, NEW = 12 };
    struct rig r;
    struct oracle o;
    oracle_read(&o, "fixtures/family/qwen2_window");
    open_fixture(&r, "fixtures/family/qwen2_window", "ref", DT_F32);
    const int64_t V = o.n_vocab;
    float *want = pass(&r, &o, N + NEW, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kv_spec spec;
        struct seq s;
        struct kv_ledger l = {0}, told;
        double worst = 0;
        OK(kv_spec_parse(&spec, cases[i].text));
        OK(kv_spec_check(&spec, &r.shape));
        open_method(&r, &o, &spec, N, N + NEW, &s);
        seq_bytes(&s, &l);
        OK(kv_predict(&spec, &r.shape, N, N + NEW, &told));
        assert_int_equal(kv_ledger_total(&l), kv_ledger_total(&told));
        for (int64_t t = N; t < N + NEW; t++)
            worst = fmax(worst, max_diff(step(&r, &s, o.ids + t, 1, LOGITS_LAST), want + t * V, V));
        if (cases[i].same ? !(worst <= 1e-4) : !(worst > 1e-3))
            fail_msg("%s: %g from the model without it", cases[i].text, worst);
        seq_close(&s);
        kv_spec_free(&spec);
    }
    free(want);
    rig_close(&r);
    free(o.raw);
}

/* A method acts on the layers that keep all tokens and makes them smaller; windows take what they take
 * without one. The whole takes what was predicted, and answers go on. */
static void check_method(struct rig *r, const struct oracle *o, const char *text)
{
    enum { PROMPT = 300, MAX = 340 };
    struct kv_ledger all = {0}, predicted = {0};
    struct kv_spec spec;
    struct seq plain, s;
    OK(kv_spec_parse(&spec, text));
    OK(kv_spec_check(&spec, &r->shape));
    open_method(r, o, &r->full, PROMPT, MAX, &plain);
    open_method(r, o, &spec, PROMPT, MAX, &s);
    for (int32_t i = 0; i < r->shape.n_layer; i++) {
        const bool acts = shape_kind(&r->shape, i)->window == 0;
        struct kv_ledger without = {0}, with = {0}, told = {0};
        kv_bytes(&plain.layer[i], &without);
        kv_bytes(&s.layer[i], &with);
        OK(kv_predict_layer(&spec, &r->shape, i, PROMPT, MAX, &told));
        assert_string_equal(kv_method_name(s.layer[i].method), acts ? kv_method_name(spec.method) : "full");
        assert_int_equal(kv_ledger_total(&with), kv_ledger_total(&told));
        if (acts ? kv_ledger_total(&with) >= kv_ledger_total(&without)
                 : kv_ledger_total(&with) > kv_ledger_total(&without))
            fail_msg("%s: layer %d takes %llu bytes, %llu without it", text, i,
                     (unsigned long long)kv_ledger_total(&with),
                     (unsigned long long)kv_ledger_total(&without));
    }
    seq_bytes(&s, &all);
    OK(kv_predict(&spec, &r->shape, PROMPT, MAX, &predicted));
    assert_int_equal(kv_ledger_total(&all), kv_ledger_total(&predicted));
    for (int i = 0; i < 8; i++) {
        const float *out = step(r, &s, o->ids + PROMPT + i, 1, LOGITS_LAST);
        for (int v = 0; v < o->n_vocab; v++)
            assert_true(isfinite(out[v]));
    }
    seq_close(&plain);
    seq_close(&s);
    kv_spec_free(&spec);
}

static void test_methods_on_full_layers(void **state)
{
    (void)state;
    static const char *const specs[] = {"streaming:ratio=4", "h2o:ratio=4",
                                        "kivi:bits=2,group=16,residual=32", "knorm:ratio=2",
                                        "flexgen:bits=4,group=16"};
    for (int i = 0; i < 2 * FIXTURES; i++) {
        struct rig r;
        struct oracle o;
        if (!have_backend(backends[i % 2]) || !strstr(fixtures[i / 2], "gemma3"))
            continue;
        oracle_read(&o, fixtures[i / 2]);
        open_fixture(&r, fixtures[i / 2], backends[i % 2], DT_F32);
        for (size_t k = 0; k < sizeof specs / sizeof *specs; k++)
            check_method(&r, &o, specs[k]);
        rig_close(&r);
        free(o.raw);
    }
}

/* Equal weights with other windows, other types, other rotations are other models. */
static void test_identities(void **state)
{
    (void)state;
    static const char *const edits[][2] = {
        {"\"sliding_window\": 24", "\"sliding_window\": 25"},
        {"\"max_window_layers\": 2", "\"max_window_layers\": 3"},
        {"\"factor\": 4.0", "\"factor\": 4.5"},
        {"\"rope_type\": \"yarn\"", "\"rope_type\": \"yarn\", \"truncate\": false"}};
    static const char *const of[] = {"qwen2_window", "qwen2_window", "qwen2_yarn", "qwen2_yarn"};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        char *dir = scratch_make(), *from = mem_printf("fixtures/family/%s", of[i]), *text;
        uint64_t hash[2][2];
        size_t n;
        for (int k = 0; k < 2; k++) {
            static const char *const files[] = {"config.json", "model.safetensors"};
            for (int j = 0; j < 2; j++) {
                char *path = file_join(from, files[j]);
                OK(file_read(path, &text, &n));
                char *at = k && !j ? strstr(text, edits[i][0]) : NULL;
                assert_true(at || !k || j);
                char *changed =
                    at ? mem_printf("%.*s%s%s", (int)(at - text), text, edits[i][1], at + strlen(edits[i][0]))
                       : NULL;
                scratch_put(dir, files[j], changed ? changed : text, changed ? strlen(changed) : n);
                free(changed);
                free(text);
                free(path);
            }
            struct model_file *f;
            OK(model_file_open(&f, dir));
            model_file_hash(f, hash[k]);
            model_file_close(f);
        }
        assert_true(memcmp(hash[0], hash[1], sizeof hash[0]) != 0);
        scratch_remove(dir);
        free(from);
    }
}
#define GEMMA3                                                                                               \
    "{\"model_type\": \"gemma3_text\", \"hidden_size\": 32, \"intermediate_size\": 40, "                     \
    "\"num_hidden_layers\": 2"

/* What a header may not say, and in which words that is refused. */
static void test_headers(void **state)
{
    (void)state;
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{\"d_model\": 32, \"n_layer\": 3, \"vocab_size\": 61, \"ssm_cfg\": {\"layer\": \"Mamba3\"}}",
         "'Mamba3' is not"},
        {"{\"d_model\": 32, \"n_layer\": 3, \"vocab_size\": 61, \"ssm_cfg\": {}, \"attn_layer_idx\": [1]}",
         "attn_layer_idx"},
        {"{\"d_model\": 32, \"n_layer\": 3, \"vocab_size\": 61, \"rms_norm\": false}", "rms_norm"},
        {"{\"model_type\": \"mamba\", \"hidden_act\": \"gelu\"}", "hidden_act 'gelu'"},
        {"{\"model_type\": \"mamba2\", \"num_heads\": 7}", "do not share"},
        {"{\"model_type\": \"mamba2\", \"time_step_limit\": [-1, Infinity]}", "time_step_limit"},
        {"{\"model_type\": \"rwkv5\"}", "take the .pth file"},
        {"{\"model_type\": \"recurrent_gemma\", \"block_types\": [\"recurrent\", \"global\"]}",
         "block_types[1] is 'global'"},
        {"{\"model_type\": \"recurrent_gemma\", \"partial_rotary_factor\": 1}", "partial_rotary_factor"},
        {"{\"model_type\": \"recurrent_gemma\", \"attention_bias\": true}", "attention_bias"},
        {"{\"model_type\": \"recurrent_gemma\", \"num_attention_heads\": 10, \"lru_width\": 2561}",
         "go together"},
        {GEMMA3 ", \"hidden_activation\": \"gelu\"}", "hidden_activation"},
        {GEMMA3 ", \"final_logit_softcapping\": 30.0}", "final_logit_softcapping"},
        {GEMMA3 ", \"attn_logit_softcapping\": 50.0}", "attn_logit_softcapping"},
        {GEMMA3 ", \"use_bidirectional_attention\": true}", "use_bidirectional_attention"},
        {GEMMA3 ", \"sliding_window\": null}", "'sliding_window' is null"},
        {GEMMA3 ", \"sliding_window\": 0}", "sliding_window"},
        {GEMMA3 ", \"layer_types\": [\"full_attention\"]}", "1 entries for 2 layers"},
        {GEMMA3 ", \"layer_types\": [\"full_attention\", \"chunked_attention\"]}",
         "layer_types[1] is 'chunked_attention'"},
        {GEMMA3 ", \"num_attention_heads\": 6}", "go together"},
        {GEMMA3 ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e6}}",
         "an object 'full_attention'"},
        {GEMMA3 ", \"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"longrope\"}}}", "longrope"},
    };
    char *dir = scratch_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_file *f;
        scratch_text(dir, "config.json", cases[i].config);
        assert_int_equal(model_file_open(&f, dir), ERR_INPUT);
        if (!strstr(err_text(), cases[i].says))
            fail_msg("%s: %s", cases[i].config, err_text());
    }
    struct model_file *f;
    char *config = file_join(dir, "config.json");
    assert_int_equal(unlink(config), 0);
    scratch_text(dir, "a.pth", "x");
    scratch_text(dir, "b.pth", "x");
    REFUSED(model_file_open(&f, dir), "holds 2 .pth files: name one of them");
    free(config);
    scratch_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_oracles),
                                       cmocka_unit_test(test_griffin_bug),
                                       cmocka_unit_test(test_ways),
                                       cmocka_unit_test(test_16_bit),
                                       cmocka_unit_test(test_no_cache),
                                       cmocka_unit_test(test_windows),
                                       cmocka_unit_test(test_methods_beside_windows),
                                       cmocka_unit_test(test_methods_on_full_layers),
                                       cmocka_unit_test(test_identities),
                                       cmocka_unit_test(test_headers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
