/* Bundles on a device that is too small for them: what a unit is recorded as must not depend on who else is
 * in its bundle. */
#include "expect.h"

#include "base/mem.h"
#include "kernels/host.h"
#include "sweep/plan.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct vars vars = {.cache = "/cache", .data = "fixtures", .models = "fixtures/model"};

/* Settings that share the plain pass and settings with one of their own; two examples. */
enum { SETTINGS = 5, UNITS = 2 * SETTINGS };
static const char form[] =
    "models: [{id: tiny, path: fixtures/tiny, template: none, max_len: 4096}]\n"
    "methods: [full, \"kivi:bits=2\", {name: streaming, ratio: [2, 8]}, {name: h2o, ratio: 4}]\n"
    "tasks: [{name: passkey, lengths: [%d], depths: 2, iterations: 1, digits: 5, max_new: 6}]\n"
    "dtype: f32\ncache_dtype: f32\nfidelity: {examples: 1}\nlogits: {topk: 4}\n";

struct rig {
    struct config config;
    struct plan plan;
    struct runner *r;
    struct ops *ops;
    struct host *host;
    struct task *task;
    struct run_unit unit[UNITS];
    struct record alone[UNITS]; /* what each unit gives in a bundle of one, with memory for all */
    size_t weights;             /* with the tables that the first units made */
};

static void rig_open(struct rig *g, int length)
{
    char *text = mem_printf(form, length);
    struct config_source s = {.path = "t.yaml", .text = text, .vars = &vars};
    struct run_options o = {.device = "ref", .threads = 1, .logits_first = 1, .topk = 4};
    *g = (struct rig){.weights = 0};
    OK(config_open(&g->config, &s));
    free(text);
    OK(plan_open(&g->plan, &g->config));
    assert_int_equal(g->plan.n_unit, UNITS);
    assert_int_equal(g->plan.n_bundle, 1);
    OK(runner_open(&g->r, &o));
    OK(runner_load(g->r, &g->plan.model[0].run));
    g->ops = runner_ops(g->r);
    g->host = g->ops->impl;
    g->task = g->plan.model[0].task[0];
    for (int i = 0; i < UNITS; i++) {
        g->unit[i] = plan_run_unit(&g->plan, i);
        OK(runner_bundle(g->r, g->task, &g->unit[i], 1, &g->alone[i]));
        assert_int_equal(g->alone[i].status, ST_OK);
    }
    g->weights = g->ops->used(g->ops, MEM_WEIGHTS, PLACE_DEVICE);
}

static void rig_close(struct rig *g)
{
    for (int i = 0; i < UNITS; i++)
        record_free(&g->alone[i]);
    runner_close(g->r);
    plan_close(&g->plan);
    config_close(&g->config);
}

static void give(struct rig *g, size_t bytes)
{
    g->host->limit = g->weights + bytes;
}

static int64_t passes(struct rig *g)
{
    int64_t n, tokens;
    runner_counts(g->r, &n, &tokens);
    return n;
}

/* Without the workspace, which stays as the last batch left it. */
static size_t used(const struct rig *g)
{
    size_t n = 0;
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            if (k != MEM_WORKSPACE || p != PLACE_DEVICE)
                n += g->ops->used(g->ops, (enum mem_kind)k, (enum mem_place)p);
    return n;
}

static void same_answer(const struct record *a, const struct record *b)
{
    assert_int_equal(a->status, ST_OK);
    assert_int_equal(a->unit_hi, b->unit_hi);
    assert_int_equal(a->n_new, b->n_new);
    assert_memory_equal(a->token, b->token, (size_t)a->n_new * sizeof *a->token);
    assert_int_equal(a->n_text, b->n_text);
    assert_memory_equal(a->text, b->text, a->n_text);
    assert_true(a->score == b->score);
    assert_int_equal(a->kv_bytes_alone, b->kv_bytes_alone);
    assert_int_equal(a->prompt_hash, b->prompt_hash);
}

static void same_fidelity(const struct record *a, const struct record *b)
{
    assert_int_equal(a->n_fidelity, b->n_fidelity);
    for (int i = 0; i < a->n_fidelity; i++)
        assert_true(a->fidelity[i].kl == b->fidelity[i].kl && a->fidelity[i].step == b->fidelity[i].step);
}

/* The peak of one unit without the comparison with the full cache, which may do without. */
static uint64_t peak_of(struct rig *g, struct run_unit u)
{
    struct record rec;
    u.fidelity = false;
    OK(runner_bundle(g->r, g->task, &u, 1, &rec));
    uint64_t peak = rec.peak_bytes;
    record_free(&rec);
    return peak;
}

static void units_alone_where_they_do_not_fit_together(void **state)
{
    (void)state;
    struct rig g;
    struct record out[UNITS];
    rig_open(&g, 60);
    uint64_t most = 0;
    for (int i = 0; i < UNITS; i++) {
        uint64_t peak = peak_of(&g, g.unit[i]);
        most = peak > most ? peak : most;
    }
    int64_t before = passes(&g);
    OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
    int64_t roomy = passes(&g) - before;
    assert_true(out[0].peak_bytes > most); /* together they take more than any of them alone */
    for (int i = 0; i < UNITS; i++) {
        same_answer(&out[i], &g.alone[i]);
        record_free(&out[i]);
    }
    /* just enough for the biggest alone */
    give(&g, most);
    before = passes(&g);
    OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
    assert_true(passes(&g) - before > roomy);
    for (int i = 0; i < UNITS; i++) {
        same_answer(&out[i], &g.alone[i]);
        same_fidelity(&out[i], &g.alone[i]);
        assert_in_range(out[i].peak_bytes, most / 2, most);
        record_free(&out[i]);
    }
    rig_close(&g);
}

static int64_t longest(const char *error)
{
    static const char words[] = "the longest that would fit alone has about ";
    const char *at = strstr(error, words);
    return at ? atoll(at + sizeof words - 1) : -1;
}

/* One byte less than the biggest needs: it alone is out of memory, and says what would fit. */
static void a_unit_that_never_fits(void **state)
{
    (void)state;
    struct rig g;
    struct record out[UNITS];
    uint64_t peak[UNITS], most = 0;
    rig_open(&g, 60);
    for (int i = 0; i < UNITS; i++) {
        peak[i] = peak_of(&g, g.unit[i]);
        most = peak[i] > most ? peak[i] : most;
    }
    give(&g, most - 1);
    OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
    int n_oom = 0;
    for (int i = 0; i < UNITS; i++) {
        if (peak[i] < most) {
            same_answer(&out[i], &g.alone[i]);
        } else {
            n_oom++;
            assert_int_equal(out[i].status, ST_OOM);
            assert_true(out[i].want_bytes > 0);
            assert_in_range(longest(out[i].error), out[i].n_prompt / 2, out[i].n_prompt - 1);
        }
        record_free(&out[i]);
    }
    assert_in_range(n_oom, 1, UNITS - 1);
    give(&g, 1); /* not even the workspace */
    OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
    for (int i = 0; i < UNITS; i++) {
        assert_int_equal(out[i].status, ST_OOM);
        assert_int_equal(longest(out[i].error), 0);
        assert_int_equal(out[i].unit_hi, g.unit[i].hi);
        record_free(&out[i]);
    }
    rig_close(&g);
}

/* Whichever allocation fails, once: nothing of it shows in the answers, and nothing is lost. */
static void one_allocation_fails(void **state)
{
    (void)state;
    struct rig g;
    struct record out[UNITS];
    rig_open(&g, 12);
    OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
    for (int i = 0; i < UNITS; i++)
        record_free(&out[i]);
    size_t before = used(&g);
    bool failed = true;
    for (int nth = 1; failed; nth += nth < 12 ? 1 : 17) {
        ops_fail_alloc(g.ops, nth);
        OK(runner_bundle(g.r, g.task, g.unit, UNITS, out));
        failed = g.host->fail_at == 0;
        ops_fail_alloc(g.ops, 0);
        for (int i = 0; i < UNITS; i++) {
            same_answer(&out[i], &g.alone[i]);
            record_free(&out[i]);
        }
        assert_int_equal(used(&g), before);
        assert_in_range(nth, 1, 2000);
    }
    rig_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_alone_where_they_do_not_fit_together),
        cmocka_unit_test(a_unit_that_never_fits),
        cmocka_unit_test(one_allocation_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
