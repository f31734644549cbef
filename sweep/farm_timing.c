/* What the file holds already, and timing: shared and batched work cannot be attributed to a setting, so a
 * few units per setting run alone, after everything else, on one rank while the others are gone. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "hdf5io/book.h"
#include "hdf5io/read.h"
#include "sweep/farm_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct unit_at {
    uint64_t hi, lo;
    int64_t unit;
};

static int by_id(const void *a, const void *b)
{
    const struct unit_at *x = a, *y = b;
    if (x->hi != y->hi)
        return x->hi < y->hi ? -1 : 1;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static struct unit_at *index_units(const struct plan *p)
{
    struct unit_at *at = mem_alloc((size_t)p->n_unit + 1, sizeof *at);
    for (int64_t i = 0; i < p->n_unit; i++)
        at[i] = (struct unit_at){p->unit[i].hi, p->unit[i].lo, i};
    qsort(at, (size_t)p->n_unit, sizeof *at, by_id);
    return at;
}

static const struct plan_unit *find_unit(const struct plan *p, const struct unit_at *at, uint64_t hi,
                                         uint64_t lo)
{
    struct unit_at key = {hi, lo, 0};
    const struct unit_at *hit = bsearch(&key, at, (size_t)p->n_unit, sizeof *at, by_id);
    return hit ? &p->unit[hit->unit] : NULL;
}

static uint8_t *timed_at(const struct farm *f, int setting, int task, int k)
{
    const struct plan *p = f->plan;
    return &f->timed[((size_t)setting * (size_t)p->n_task + (size_t)task) * (size_t)p->config->timing +
                     (size_t)k];
}

static int timing_count(const struct farm *f, int task)
{
    int n = f->plan->task[task].n_example;
    return f->plan->config->timing < n ? f->plan->config->timing : n;
}

static void mark_timed(struct farm *f, const struct sink_setting *mine, const struct results *r,
                       const struct sink_timing *t)
{
    const struct plan *p = f->plan;
    for (int s = 0; s < p->n_setting; s++) {
        for (int i = 0; i < p->n_task; i++) {
            if (!book_same_units(&mine[s], &r->setting[t->setting], &r->task[t->task]) ||
                strcmp(p->task[i].cfg->id, r->task[t->task].id) ||
                strcmp(p->task[i].params, r->task[t->task].params))
                continue;
            for (int k = 0; k < timing_count(f, i); k++)
                if (plan_sample(p->task[i].n_example, timing_count(f, i), k) == t->example)
                    *timed_at(f, s, i, k) = 1;
        }
    }
}

static bool is_full(const struct plan_setting *s)
{
    return !strcmp(kv_method_name(s->spec->method), "full");
}

/* Whether the comparison with the full cache is wished for a unit that was computed without it. Where the
 * plan computes `full`, its own units answer for the others, which have nothing to compare with if it failed.
 */
static bool lacks_fidelity(const struct plan *p, const struct plan_unit *u, const struct record *r)
{
    bool has_full = false;
    for (int i = 0; i < p->n_setting; i++)
        has_full =
            has_full || (p->setting[i].model == p->setting[u->setting].model && is_full(&p->setting[i]));
    return plan_run_unit(p, u - p->unit).fidelity && r->status == ST_OK && r->n_new > 0 && !r->n_fidelity &&
           (!has_full || is_full(&p->setting[u->setting]));
}

int farm_history(struct farm *f)
{
    const struct plan *p = f->plan;
    f->timed = mem_alloc((size_t)p->n_setting * (size_t)p->n_task * (size_t)p->config->timing + 1, 1);
    struct results r;
    TRY(results_open(&r, f->opt->output));
    struct unit_at *at = index_units(p);
    int64_t n_lacking = 0;
    for (int64_t i = 0; i < r.n_record; i++) {
        const struct plan_unit *u = find_unit(p, at, r.record[i].unit_hi, r.record[i].unit_lo);
        if (!u)
            continue;
        struct record mine = r.record[i];
        mine.setting = u->setting, mine.task = u->task, mine.example = u->example;
        n_lacking += lacks_fidelity(p, u, &mine);
        progress_unit(&f->progress, &mine, true);
    }
    if (n_lacking)
        log_warn("fidelity: %lld unit%s in %s finished without it and %s not computed again; to have it for "
                 "all, write "
                 "another file",
                 (long long)n_lacking, n_lacking == 1 ? "" : "s", f->opt->output,
                 n_lacking == 1 ? "is" : "are");
    struct sink_plan rows;
    struct str text = {0};
    plan_sink(p, &rows, &text);
    for (int i = 0; i < r.n_timing; i++)
        if (r.timing[i].setting < r.n_setting && r.timing[i].task < r.n_task)
            mark_timed(f, rows.setting, &r, &r.timing[i]);
    plan_sink_free(&rows);
    str_free(&text);
    free(at);
    results_close(&r);
    return 0;
}

static const struct plan_unit *unit_of(const struct plan *p, int setting, int task, int example)
{
    for (int64_t i = 0; i < p->n_unit; i++)
        if (p->unit[i].setting == setting && p->unit[i].task == task && p->unit[i].example == example)
            return &p->unit[i];
    return NULL;
}

/* Errors that are a unit's own: it has no timing, and that is no reason to stop. */
static bool is_units_own(int rc)
{
    return rc == ERR_NOMEM || rc == ERR_TOO_LONG || rc == ERR_NAN || rc == ERR_INPUT;
}

static int time_one(struct farm *f, int setting, int task, int example)
{
    const struct plan *p = f->plan;
    const struct plan_unit *u = unit_of(p, setting, task, example);
    struct run_unit unit = plan_run_unit(p, u - p->unit);
    struct run_timing t = {0};
    TRY(worker_load(&f->worker, p->setting[setting].model, NULL));
    farm_weights(f, f->worker.loaded, f->worker.weights, 0);
    if (f->fail)
        return f->fail;
    int rc = runner_timing(f->worker.runner, p->model[p->setting[setting].model].task[task], &unit, &t);
    if (is_units_own(rc)) {
        if (!f->opt->quiet)
            log_info("not timed: setting %s, task %s, example %s: %s", p->setting[setting].id,
                     p->task[task].cfg->id, plan_example(p, task, example)->id, err_text());
        return 0;
    }
    TRY(rc);
    struct sink_timing row = {.setting = setting,
                              .task = task,
                              .example = example,
                              .n_prompt = t.n_prompt,
                              .n_new = t.n_new,
                              .s_prefill = t.s_prefill,
                              .s_compress = NAN,
                              .s_decode = t.s_decode,
                              .s_prefill_limit = t.s_prefill_limit,
                              .s_decode_limit = t.s_decode_limit,
                              .peak_bytes = t.peak_bytes};
    return f->type->put_timing(f->sink, &row, 1);
}

void farm_timing(struct farm *f)
{
    const struct plan *p = f->plan;
    bool said = f->opt->quiet;
    for (int s = 0; s < p->n_setting; s++) {
        for (int i = 0; i < p->n_task; i++) {
            int n = plan_runs(p, s, i) ? timing_count(f, i) : 0;
            for (int k = 0; k < n && !farm_stopping(f); k++) {
                if (*timed_at(f, s, i, k))
                    continue;
                if (!said)
                    log_info("timing %d example%s per setting and task, alone", p->config->timing,
                             p->config->timing == 1 ? "" : "s");
                said = true;
                int rc = time_one(f, s, i, plan_sample(p->task[i].n_example, n, k));
                enum stop_wish wish = stop_wished();
                if (wish > f->wish)
                    f->wish = wish;
                if (rc < 0 && f->wish == STOP_NO)
                    farm_fail(f, rc, 0);
            }
        }
    }
}
