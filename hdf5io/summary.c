#include "hdf5io/summary.h"

#include "base/mem.h"
#include "hdf5io/book.h"
#include "hdf5io/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

const char *summary_refused(const struct summary *s, int setting)
{
    const char *why = s->r->setting[setting].refused;
    return *why && !s->setting[setting].n_done ? why : NULL;
}

int summary_say_refused(const struct summary *s, struct str *out)
{
    int n = 0;
    for (int i = 0; i < s->r->n_setting; i++) {
        const char *why = summary_refused(s, i);
        if (why)
            str_printf(out, "refused: %s: %s\n", s->r->setting[i].id, why);
        n += why != NULL;
    }
    return n;
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

/* A unit also stands in the rows of other settings that come to the same on its task. */
static void share_units(struct summary *s)
{
    const struct results *r = s->r;
    for (int64_t row = 0; row < r->n_example; row++) {
        const int *like = s->like + (int64_t)r->example[row].task * r->n_setting;
        for (int i = 0; i < r->n_setting; i++) {
            const struct record **first = &s->unit[(int64_t)like[i] * r->n_example + row];
            *first = *first ? *first : s->unit[(int64_t)i * r->n_example + row];
        }
        for (int i = 0; i < r->n_setting; i++) {
            const struct record **mine = &s->unit[(int64_t)i * r->n_example + row];
            *mine = *mine ? *mine : s->unit[(int64_t)like[i] * r->n_example + row];
        }
    }
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

static void take_times(struct summary *s, int setting)
{
    const struct results *r = s->r;
    struct summary_setting *o = &s->setting[setting];
    size_t cap = (size_t)r->n_timing;
    double *v = mem_alloc(6 * cap + 1, sizeof *v);
    int64_t n = 0, m = 0;
    for (int i = 0; i < r->n_timing; i++) {
        const struct sink_timing *t = &r->timing[i];
        const int *like = s->like + (int64_t)t->task * r->n_setting;
        if (like[t->setting] != like[setting])
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

/* `full` of the same model, computed alike. Where there are several (of different rules), the one with the
 * same overrides, else the one in which the file saw most units. */
static int full_row(const struct summary *s, int setting)
{
    const struct results *r = s->r;
    const struct sink_setting *mine = &r->setting[setting];
    int found = -1;
    for (int i = 0; i < r->n_setting; i++) {
        const struct sink_setting *f = &r->setting[i];
        if (strcmp(f->method, "full") != 0 || !book_same_base(f, mine))
            continue;
        if (!strcmp(f->overrides, mine->overrides))
            return i;
        if (found < 0 || s->setting[i].n_done > s->setting[found].n_done)
            found = i;
    }
    return found;
}

static void init_means(struct summary *s)
{
    const struct results *r = s->r;
    const char **category = mem_alloc((size_t)r->n_task + 1, sizeof *category);
    const char **id = mem_alloc((size_t)r->n_task + 1, sizeof *id);
    for (int t = 0; t < r->n_task; t++) {
        category[t] = r->task[t].category;
        id[t] = r->task[t].id;
    }
    means_init(&s->means, id, category, r->n_task, r->mode && !strcmp(r->mode, "paper"));
    free(category);
    free(id);
}

void summary_make(struct summary *s, const struct results *r, enum summary_depth depth)
{
    size_t n = (size_t)r->n_setting;
    *s = (struct summary){.r = r,
                          .setting = mem_alloc(n, sizeof *s->setting),
                          .cell = mem_alloc(n * (size_t)r->n_task, sizeof *s->cell),
                          .unit = mem_alloc(n * (size_t)r->n_example, sizeof *s->unit)};
    init_means(s);
    s->whole = mem_alloc(n * (size_t)s->means.n_whole, sizeof *s->whole);
    s->category = mem_alloc(n * (size_t)s->means.n_category, sizeof *s->category);
    s->like = book_alike(r->setting, r->n_setting, r->task, r->n_task);
    place_units(s);
    share_units(s);
    for (int i = 0; i < r->n_setting; i++)
        count_units(s, i);
    for (int i = 0; i < r->n_setting; i++)
        s->setting[i].full = full_row(s, i);
    struct resampler draws = {0};
    if (depth >= SUMMARY_SCORES)
        summary_add_scores(s, &draws);
    if (depth >= SUMMARY_ALL) {
        summary_add_diffs(s, &draws);
        summary_add_fidelity(s, &draws);
        for (int i = 0; i < r->n_setting; i++)
            take_times(s, i);
    }
    resampler_free(&draws);
}

void summary_free(struct summary *s)
{
    means_free(&s->means);
    free(s->setting);
    free(s->whole);
    free(s->category);
    free(s->cell);
    free(s->unit);
    free(s->like);
    *s = (struct summary){0};
}
