#include "base/err.h"
#include "hdf5io/summary.h"
#include "sweep/app.h"
#include "task/task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct export_args {
    const char *path, *out;
    char format; /* 'c' or 'j' */
    bool scores;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct export_args *a = state->input;
    if ((key == 'c' || key == 'j') && a->format && a->format != key) {
        fprintf(stderr, "%s: --csv and --jsonl exclude each other\n", state->name);
        exit(1);
    } else if (key == 'c' || key == 'j') {
        a->format = (char)key;
    } else if (key == 's') {
        a->scores = true;
    } else if (key == 'o') {
        a->out = arg;
    } else if (key == ARGP_KEY_ARG && !a->path) {
        a->path = arg;
    } else if (key == ARGP_KEY_END && (!a->path || !a->format)) {
        fprintf(stderr, "%s: write kvsweep export FILE.h5 --csv or --jsonl\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* One row in the making; names are written as header or as JSON keys. */
struct row {
    struct str *out, *header;
    bool json;
    int n;
};

static void cell(struct row *w, const char *name, const char *text, size_t n, bool quoted)
{
    str_add(w->out, w->n ? w->json ? ", " : "," : "");
    if (w->header)
        str_printf(w->header, "%s%s", w->n ? "," : "", name);
    w->n++;
    if (w->json) {
        str_printf(w->out, "\"%s\": ", name);
        if (quoted)
            str_add_json(w->out, text, n);
        else
            str_add(w->out, *text ? text : "null");
        return;
    }
    str_add_csv(w->out, text, n);
}

static void cell_text(struct row *w, const char *name, const char *text)
{
    cell(w, name, text ? text : "", text ? strlen(text) : 0, true);
}

static void cell_real(struct row *w, const char *name, double v)
{
    char text[32] = "";
    if (isfinite(v))
        str_double(text, v);
    cell(w, name, text, strlen(text), false);
}

static void cell_int(struct row *w, const char *name, long long v)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", v);
    cell(w, name, text, strlen(text), false);
}

static double metric_value(const struct record *r, int name)
{
    for (int i = 0; i < r->n_metric; i++)
        if (r->metric[i].name == name)
            return r->metric[i].value;
    return NAN;
}

static double budget_value(const struct record *r, int name)
{
    for (int i = 0; i < r->n_budget; i++)
        if (r->budget[i].name == name)
            return r->budget[i].value;
    return NAN;
}

/* The numbers of a record with one of these roles (record.def), under their names; nothing where the file is
 * older than the column. */
static void write_columns(struct row *w, const struct results *r, const struct record *rec,
                          enum record_role from, enum record_role to)
{
    for (int i = 0; record_column(i); i++) {
        const struct record_column *c = record_column(i);
        const char *at = (const char *)rec + c->offset;
        int32_t small = 0;
        uint64_t wide = 0;
        if (c->role < from || c->role > to)
            continue;
        memcpy(c->bytes == sizeof small ? (void *)&small : (void *)&wide, at, c->bytes);
        if (c->since > r->schema_version)
            cell(w, c->name, "", 0, false);
        else
            cell_int(w, c->name, c->bytes == sizeof small ? small : (long long)wide);
    }
}

static void write_record(struct row *w, const struct results *r, const struct record *rec)
{
    const struct sink_setting *s = &r->setting[rec->setting];
    const struct sink_task *t = &r->task[rec->task];
    const struct sink_example *ex = results_example(r, rec->task, rec->example);
    char unit[40];
    snprintf(unit, sizeof unit, "%016llx%016llx", (unsigned long long)rec->unit_hi,
             (unsigned long long)rec->unit_lo);
    cell_text(w, "unit", unit);
    cell_text(w, "setting", s->id);
    cell_text(w, "model", s->model);
    cell_text(w, "method", s->method);
    cell_text(w, "params", s->params);
    cell_text(w, "prompt_method", s->prompt_method);
    cell(w, "template", s->template, strcspn(s->template, " "), true);
    if (r->schema_version < 2)
        cell(w, "max_len", "", 0, false);
    else
        cell_int(w, "max_len", s->max_len);
    cell_text(w, "protocol", s->protocol);
    cell_text(w, "task", t->id);
    cell_text(w, "example", ex ? ex->id : "");
    cell_real(w, "length", ex ? ex->length : NAN);
    cell_real(w, "depth", ex ? ex->depth : NAN);
    cell_int(w, "iteration", ex ? ex->iteration : -1);
    cell_text(w, "status", record_status_name(rec->status));
    cell_text(w, "stop", record_stop_name(rec->stop));
    cell_text(w, "metric", t->metric);
    cell_real(w, "score", rec->score);
    for (int i = 0; task_metric_names()[i]; i++)
        cell_real(w, task_metric_names()[i], metric_value(rec, i));
    write_columns(w, r, rec, RECORD_SIZE, RECORD_MEASURED);
    for (int i = 0; i < KV_BUDGET_N; i++)
        cell_real(w, kv_budget_name((enum kv_budget)i), budget_value(rec, i));
    write_columns(w, r, rec, RECORD_ORIGIN, RECORD_ORIGIN);
    cell(w, "text", rec->text ? rec->text : "", rec->n_text, true); /* may hold NULs */
    cell_text(w, "gold", ex ? ex->gold_json : "");
    cell_text(w, "error", rec->error);
}

/* The names of the columns, also where there is no unit yet. */
static void write_header(const struct results *r, struct str *out)
{
    struct str line = {0};
    struct row w = {&line, out, false, 0};
    const struct record any = {0};
    if (r->n_setting && r->n_task) {
        write_record(&w, r, &any);
        str_addc(out, '\n');
    }
    str_free(&line);
}

static void write_all(const struct results *r, bool json, struct str *out)
{
    struct str line = {0};
    if (!json)
        write_header(r, out);
    for (int64_t i = 0; i < r->n_record; i++) {
        struct row w = {&line, NULL, json, 0};
        str_clear(&line);
        write_record(&w, r, &r->record[i]);
        str_printf(out, json ? "{%s}\n" : "%s\n", str_c(&line));
    }
    str_free(&line);
}

/* One row of --scores: what `name` (a task, a category, a whole) scored under a setting. */
static void write_score(struct row *w, const struct summary *m, int setting, const char *level,
                        const char *name, struct interval in)
{
    const struct sink_setting *s = &m->r->setting[setting];
    cell_text(w, "setting", s->id);
    cell_text(w, "model", s->model);
    cell_text(w, "method", s->method);
    cell_text(w, "params", s->params);
    cell_text(w, "level", level);
    cell_text(w, "name", name);
    cell_int(w, "n", in.n);
    cell_real(w, "score", in.mean);
    cell_real(w, "lo", in.lo);
    cell_real(w, "hi", in.hi);
    cell_text(w, "interval", interval_name(in.kind));
}

/* Appends a row; before the first one of CSV the names of the columns. */
static void add_score(const struct summary *m, int setting, const char *level, const char *name,
                      struct interval in, bool json, struct str *out)
{
    struct str line = {0}, header = {0};
    struct row w = {&line, out->n || json ? NULL : &header, json, 0};
    write_score(&w, m, setting, level, name, in);
    if (header.n)
        str_printf(out, "%s\n", str_c(&header));
    str_printf(out, json ? "{%s}\n" : "%s\n", str_c(&line));
    str_free(&line);
    str_free(&header);
}

static void write_scores(const struct results *r, bool json, struct str *out)
{
    struct summary m;
    summary_make(&m, r, SUMMARY_SCORES);
    for (int i = 0; i < r->n_setting; i++) {
        if (summary_refused(&m, i))
            continue;
        for (int t = 0; t < r->n_task; t++) {
            struct str label = {0};
            summary_task_label(r, t, &label);
            add_score(&m, i, "task", str_c(&label), m.cell[i * r->n_task + t].score, json, out);
            str_free(&label);
        }
        for (int c = 0; c < m.means.n_category; c++)
            add_score(&m, i, "category", m.means.category[c].name, m.category[i * m.means.n_category + c],
                      json, out);
        for (int w = 0; w < m.means.n_whole; w++)
            add_score(&m, i, "whole", m.means.whole[w].name, m.whole[i * m.means.n_whole + w].score, json,
                      out);
    }
    summary_free(&m);
}

int cmd_export(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"csv", 'c', 0, 0, "comma-separated values with a header (RFC 4180)", 0},
        {"jsonl", 'j', 0, 0, "one JSON object per line", 0},
        {"scores", 's', 0, 0, "scores of tasks, categories and wholes with intervals instead of units", 0},
        {"output", 'o', "FILE", 0, "write there instead of the standard output", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "FILE.h5",
        .doc = "Writes one row per finished unit, with names in place of row numbers."};
    struct export_args a = {0};
    struct results r;
    struct str out = {0};
    app_parse(app, &argp, argc, argv, &a);
    if (a.out && results_at(a.out))
        return err_set(ERR_INPUT, "%s holds results: choose another name for the export", a.out);
    TRY(results_open(&r, a.path));
    if (a.scores)
        write_scores(&r, a.format == 'j', &out);
    else
        write_all(&r, a.format == 'j', &out);
    int rc = app_write(a.out, &out);
    str_free(&out);
    results_close(&r);
    return rc;
}
