#include "hdf5io/summary.h"

#include "base/mem.h"
#include "hdf5io/book.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool summary_averaged(const struct sink_task *t)
{
    return strcmp(t->category, "not_averaged") != 0;
}

/* Whether "a,b,c" has the part [part, part + n). */
static bool has_part(const char *list, const char *part, size_t n)
{
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !memcmp(p, part, n))
            return true;
    return false;
}

void summary_task_label(const struct results *r, int task, struct str *out)
{
    const struct sink_task *t = &r->task[task], *o = NULL;
    for (int i = 0; i < r->n_task && !o; i++)
        if (i != task && !strcmp(r->task[i].id, t->id))
            o = &r->task[i];
    str_add(out, t->id);
    if (!o)
        return;
    struct str own = {0};
    for (const char *p = t->params; *p; p += strcspn(p, ","), p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (!has_part(o->params, p, n))
            str_printf(&own, "%s%.*s", own.n ? "," : "", (int)n, p);
    }
    if (!own.n)
        str_printf(&own, "source %.8s", t->source_sha256);
    str_printf(out, " (%s)", str_c(&own));
    str_free(&own);
}

const struct record *summary_unit(const struct summary *s, int setting, int64_t example_row)
{
    return s->unit[(int64_t)setting * s->r->n_example + example_row];
}

/* Row of /examples of a record: the table is ordered by task, then example. */
static int64_t example_row(const struct results *r, int32_t task, int32_t example)
{
    const struct sink_example *e = results_example(r, task, example);
    return e ? e - r->example : -1;
}

static void place_units(struct summary *s)
{
    const struct results *r = s->r;
    for (int64_t i = 0; i < r->n_record; i++) {
        const struct record *rec = &r->record[i];
        int64_t row = example_row(r, rec->task, rec->example);
        if (row >= 0 && rec->setting >= 0 && rec->setting < r->n_setting)
            s->unit[(int64_t)rec->setting * r->n_example + row] = rec;
    }
}

/* Collects scores of a setting (or pairs of two) in groups by task. Returns the number of groups. */
static int collect(const struct summary *s, int a, int b, int task, double *va, double *vb, int64_t *at)
{
    const struct results *r = s->r;
    int n_group = 0;
    int64_t n = 0;
    at[0] = 0;
    for (int64_t row = 0; row < r->n_example; row++) {
        const struct sink_example *e = &r->example[row];
        if (row && e->task != r->example[row - 1].task)
            at[++n_group] = n;
        if (task >= 0 ? e->task != task : !summary_averaged(&r->task[e->task]))
            continue;
        const struct record *x = summary_unit(s, a, row), *y = b < 0 ? x : summary_unit(s, b, row);
        if (!x || !y || x->status != ST_OK || y->status != ST_OK)
            continue;
        va[n] = x->score;
        if (vb)
            vb[n] = y->score;
        n++;
    }
    at[++n_group] = n;
    return n_group;
}

static struct interval score_of(const struct summary *s, int setting, int task)
{
    size_t n = (size_t)s->r->n_example;
    double *v = mem_alloc(n, sizeof *v);
    int64_t *at = mem_alloc((size_t)s->r->n_task + 2, sizeof *at);
    int groups = collect(s, setting, -1, task, v, NULL, at);
    struct interval i = stats_mean(v, at, groups);
    free(v);
    free(at);
    return i;
}

struct interval summary_diff(const struct summary *s, int a, int b, int task)
{
    size_t n = (size_t)s->r->n_example;
    double *va = mem_alloc(n, sizeof *va), *vb = mem_alloc(n, sizeof *vb);
    int64_t *at = mem_alloc((size_t)s->r->n_task + 2, sizeof *at);
    int groups = collect(s, a, b, task, va, vb, at);
    struct interval i = stats_paired(va, vb, at, groups);
    free(va);
    free(vb);
    free(at);
    return i;
}

static void count_units(struct summary *s, int setting)
{
    struct summary_setting *o = &s->setting[setting];
    double bytes = 0, full = 0, kept = 0, device = 0;
    int64_t n_bytes = 0, n_kept = 0;
    for (int64_t row = 0; row < s->r->n_example; row++) {
        const struct record *x = summary_unit(s, setting, row);
        if (!x)
            continue;
        struct summary_cell *c = &s->cell[setting * s->r->n_task + x->task];
        o->n_done++, c->n_done++;
        o->n_bad += x->status != ST_OK, c->n_bad += x->status != ST_OK;
        o->n_status[x->status]++;
        if (x->kv_bytes_alone) {
            bytes += (double)x->kv_bytes_alone;
            full += (double)x->kv_bytes_full;
            for (int k = 0; k < x->n_ledger; k++)
                device += x->ledger[k].place == PLACE_DEVICE ? (double)x->ledger[k].bytes : 0;
            n_bytes++;
        }
        for (int k = 0; k < x->n_budget; k++)
            if (x->budget[k].name == KV_KEPT_TOKENS)
                kept += x->budget[k].value, n_kept++;
    }
    o->kv_bytes = n_bytes ? bytes / (double)n_bytes : NAN;
    o->device_bytes = n_bytes ? device / (double)n_bytes : NAN;
    o->kv_bytes_full = n_bytes ? full / (double)n_bytes : NAN;
    o->ratio = bytes > 0 ? full / bytes : NAN;
    o->kept_tokens = n_kept ? kept / (double)n_kept : NAN;
}

static void take_fidelity(struct summary *s, int setting)
{
    struct summary_setting *o = &s->setting[setting];
    double kl = 0, top1 = 0, gold = 0, worst = 0;
    int64_t n = 0;
    for (int64_t row = 0; row < s->r->n_example; row++) {
        const struct record *x = summary_unit(s, setting, row);
        for (int k = 0; x && k < x->n_fidelity; k++, n++) {
            kl += x->fidelity[k].kl;
            top1 += x->fidelity[k].top1;
            gold += x->fidelity[k].gold_logprob;
            worst = x->fidelity[k].kl > worst ? x->fidelity[k].kl : worst;
        }
    }
    o->n_fidelity = n;
    o->kl = n ? kl / (double)n : NAN;
    o->kl_max = n ? worst : NAN;
    o->top1 = n ? top1 / (double)n : NAN;
    o->gold_logprob = n ? gold / (double)n : NAN;
}

static void take_times(struct summary *s, int setting)
{
    const struct results *r = s->r;
    struct summary_setting *o = &s->setting[setting];
    size_t cap = (size_t)r->n_timing;
    double *v = mem_alloc(6 * cap + 1, sizeof *v);
    int64_t n = 0, m = 0;
    for (int i = 0; i < r->n_timing; i++) {
        const struct sink_timing *t = &r->timing[i];
        if (t->setting != setting)
            continue;
        v[n] = t->s_prefill;
        v[cap + (size_t)n] = (double)t->peak_bytes;
        v[2 * cap + (size_t)n] = t->n_prompt;
        v[3 * cap + (size_t)n] = t->s_prefill_limit > 0 ? t->s_prefill_limit / t->s_prefill : NAN;
        n++;
        if (t->n_new > 1) {
            v[4 * cap + (size_t)m] = t->s_decode / (t->n_new - 1);
            v[5 * cap + (size_t)m] = t->s_decode_limit > 0 ? t->s_decode_limit / t->s_decode : NAN;
            m++;
        }
    }
    o->n_timing = n;
    o->s_prefill = stats_median(v, n);
    o->peak_bytes = stats_median(v + cap, n);
    o->n_prompt = stats_median(v + 2 * cap, n);
    o->prefill_limit = stats_median(v + 3 * cap, n);
    o->s_token = stats_median(v + 4 * cap, m);
    o->decode_limit = stats_median(v + 5 * cap, m);
    free(v);
}

/* `full` of the same model, computed alike; where there are several, the one with the same overrides. */
static int full_row(const struct results *r, int setting)
{
    const struct sink_setting *s = &r->setting[setting];
    int found = -1;
    for (int i = 0; i < r->n_setting; i++) {
        const struct sink_setting *f = &r->setting[i];
        if (strcmp(f->method, "full") != 0 || !book_same_base(f, s))
            continue;
        if (found < 0 || !strcmp(f->overrides, s->overrides))
            found = i;
    }
    return found;
}

void summary_make(struct summary *s, const struct results *r)
{
    size_t n = (size_t)r->n_setting;
    *s = (struct summary){.r = r,
                          .setting = mem_alloc(n, sizeof *s->setting),
                          .cell = mem_alloc(n * (size_t)r->n_task, sizeof *s->cell),
                          .unit = mem_alloc(n * (size_t)r->n_example, sizeof *s->unit)};
    place_units(s);
    for (int i = 0; i < r->n_setting; i++) {
        struct summary_setting *o = &s->setting[i];
        count_units(s, i);
        take_times(s, i);
        take_fidelity(s, i);
        o->score = score_of(s, i, -1);
        for (int t = 0; t < r->n_task; t++)
            s->cell[i * r->n_task + t].score = score_of(s, i, t);
        o->full = full_row(r, i);
        o->diff = o->full >= 0 && o->full != i ? summary_diff(s, i, o->full, -1)
                                               : (struct interval){NAN, NAN, NAN, 0};
    }
}

void summary_free(struct summary *s)
{
    free(s->setting);
    free(s->cell);
    free(s->unit);
    *s = (struct summary){0};
}
