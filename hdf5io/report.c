#include "hdf5io/report.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/figure.h"
#include "hdf5io/table.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light dark;--line:#8884;--soft:#8881}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1480px;margin:2rem auto;padding:0 1.2rem}"
    "h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .6rem}"
    "p.sub{margin:0;opacity:.75}.wrap{overflow-x:auto}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.86rem}"
    "th,td{padding:.32rem .45rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{text-align:right;font-weight:600;vertical-align:bottom;white-space:normal;max-width:9rem}"
    "td.name,th:first-child{text-align:left;font-weight:600}tr:hover td{background:var(--soft)}"
    ".maps{display:flex;flex-wrap:wrap;gap:1.1rem}dl{display:grid;grid-template-columns:max-content "
    "1fr;gap:.15rem 1rem;font-size:.86rem}"
    "dt{opacity:.7}dd{margin:0;overflow-wrap:anywhere}pre{background:var(--soft);padding:.8rem;overflow-x:"
    "auto;font-size:.82rem}"
    ".note{font-size:.85rem;opacity:.8;max-width:62rem}details{margin-top:.6rem}summary{cursor:pointer}";

static void fact(struct str *o, const char *name, const char *value)
{
    if (!value || !*value)
        return;
    str_printf(o, "<dt>%s</dt><dd>", name);
    str_add_html(o, value);
    str_add(o, "</dd>\n");
}

static void head(struct str *o, const struct summary *s)
{
    const struct results *r = s->r;
    int n_refused = 0;
    for (int i = 0; i < r->n_setting; i++)
        n_refused += summary_refused(s, i) != NULL;
    str_add(o, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
               "content=\"width=device-width\"><title>kvsweep report</title><style>");
    str_add(o, style);
    str_printf(o,
               "</style></head><body>\n<h1>What the KV cache compressors cost and give</h1>\n<p "
               "class=\"sub\">%d settings × %lld "
               "examples of %d task%s; %lld of %lld units done%s · mode ",
               r->n_setting - n_refused, (long long)r->n_example, r->n_task, r->n_task == 1 ? "" : "s",
               (long long)r->n_record, (long long)r->n_unit, r->running ? " (still running)" : "");
    str_add_html(o, r->mode ? r->mode : "");
    str_add(o, "</p>\n");
}

static void settings_section(struct str *o, const struct summary *s)
{
    str_add(o, "<h2>Settings</h2><div class=\"wrap\"><table>\n");
    table_settings(s, TABLE_HTML, o);
    str_add(
        o,
        "</table></div>\n<p class=\"note\">Score: mean over tasks of the mean over examples, in percent, "
        "with its 95 % interval: Wilson's for 0/1 scores of one task, else bootstrap-t (5,000 resamples "
        "within "
        "tasks). A star: too little spread to resample, the interval is wider than it need be. LongBench's "
        "15 datasets and the needle are never averaged together. Difference: the same examples under the "
        "setting and under <code>full</code>; Tango's interval for 0/1 scores, else bootstrap-t. p: exact "
        "McNemar test or sign flips, adjusted for the number of settings (Holm). Could show: the least "
        "difference that a sample like this one shows at 5 % with a power of 80 % (none where fewer than 6 "
        "examples differ: no outcome would be below 5 %). KV bytes: what one "
        "sequence really occupies, measured "
        "from the allocator, as if it "
        "were alone, with room for its longest answer (in brackets the part on the device, where the "
        "rest waits in host memory); true ratio: the uncompressed cache of the same "
        "dtype over that. Times come "
        "from isolated runs (nothing shared, one sequence): the prompt pass, and decode per new "
        "token; in brackets the share of the "
        "limit measured on this machine in the same run (product rate for the prompt, memory "
        "bandwidth over the bytes that a token must "
        "read). More than 100 % means that part of the weights stayed in the CPU's caches.</p>\n");
}

static void tasks_section(struct str *o, const struct summary *s)
{
    if (s->r->n_task < 2)
        return;
    str_add(o, "<h2>Tasks</h2><div class=\"wrap\"><table>\n");
    table_tasks(s, TABLE_HTML, o);
    str_add(o,
            "</table></div>\n<p class=\"note\">100 × mean score over the examples that ended well, with 95 % "
            "intervals. passage_count is run but, as in the reference, not averaged; the mean is that of the "
            "tasks.</p>\n");
    struct str rows = {0};
    if (table_categories(s, TABLE_HTML, &rows)) {
        str_add(o, "<h2>Categories</h2><div class=\"wrap\"><table>\n");
        str_add(o, str_c(&rows));
        str_add(o, "</table></div>\n");
    }
    str_free(&rows);
}

static void fidelity_section(struct str *o, const struct summary *s)
{
    struct str rows = {0};
    if (table_fidelity(s, TABLE_HTML, &rows)) {
        str_add(o, "<h2>Fidelity</h2><div class=\"wrap\"><table>\n");
        str_add(o, str_c(&rows));
        str_add(o, "</table></div>\n<p class=\"note\">Each setting is forced along the answer of "
                   "<code>full</code> to the same example, and its next-token distribution compared with "
                   "that of <code>full</code> at every token: KL divergence (0 is equal), how often the "
                   "most likely token is the same, and the mean log probability that it gives to the "
                   "answer of <code>full</code>. The row of <code>full</code> shows the noise of computing "
                   "twice.</p>\n");
    }
    str_free(&rows);
}

static void refused_section(struct str *o, const struct summary *s)
{
    struct str rows = {0};
    if (table_refused(s, TABLE_HTML, &rows)) {
        str_add(o, "<h2>Refused</h2><div class=\"wrap\"><table>\n");
        str_add(o, str_c(&rows));
        str_add(o, "</table></div>\n<p class=\"note\">These settings cannot run on their model; they have no "
                   "units.</p>\n");
    }
    str_free(&rows);
}

static void needle_section(struct str *o, const struct summary *s)
{
    for (int t = 0; t < s->r->n_task; t++) {
        struct str maps = {0};
        bool any = false;
        for (int i = 0; i < s->r->n_setting; i++)
            any = figure_needle(s, i, t, &maps) || any;
        if (any) {
            struct str label = {0};
            summary_task_label(s->r, t, &label);
            str_add(o, "<h2>Needle: ");
            str_add_html(o, str_c(&label));
            str_free(&label);
            str_add(o, "</h2><div class=\"maps\">\n");
            str_add(o, str_c(&maps));
            str_add(o, "</div>\n<p class=\"note\">Columns: length of the haystack; rows: where the needle "
                       "lies (0 % is the beginning); "
                       "numbers: answers with the exact key, in percent.</p>\n");
        }
        str_free(&maps);
    }
}

/* Calls `each` once for every model of the file. */
static void for_models(const struct summary *s, void (*each)(const struct summary *, const char *, void *),
                       void *ctx)
{
    for (int i = 0; i < s->r->n_setting; i++) {
        bool seen = false;
        for (int k = 0; k < i; k++)
            seen = seen || !strcmp(s->r->setting[k].model, s->r->setting[i].model);
        if (!seen)
            each(s, s->r->setting[i].model, ctx);
    }
}

static void frontier_part(const struct summary *s, const char *model, void *ctx)
{
    struct str *o = ctx, fig = {0};
    figure_frontier(s, model, &fig);
    if (fig.n) {
        str_add(o, "<h3>");
        str_add_html(o, model);
        str_add(o, "</h3>\n");
        str_add(o, fig.data);
    }
    str_free(&fig);
}

static void troubles(struct str *o, const struct summary *s)
{
    int64_t bad = 0;
    for (int i = 0; i < s->r->n_setting; i++)
        bad += s->setting[i].n_bad;
    if (!bad)
        return;
    str_add(o, "<h2>Units that did not end well</h2><div "
               "class=\"wrap\"><table><tr><th>setting</th><th>example</th><th>status</th>"
               "<th>what happened</th></tr>\n");
    int shown = 0;
    for (int64_t i = 0; i < s->r->n_record && shown < 200; i++) {
        const struct record *x = &s->r->record[i];
        if (x->status == ST_OK)
            continue;
        const struct sink_example *e = results_example(s->r, x->task, x->example);
        str_add(o, "<tr><td class=\"name\">");
        str_add_html(o, s->r->setting[x->setting].id);
        str_add(o, "</td><td>");
        str_add_html(o, e ? e->id : "");
        str_printf(o, "</td><td>%s</td><td style=\"text-align:left\">", record_status_name(x->status));
        str_add_html(o, x->error ? x->error : "");
        str_add(o, "</td></tr>\n");
        shown++;
    }
    str_printf(o, "</table></div><p class=\"note\">%d of %lld shown.</p>\n", shown, (long long)bad);
}

static void run_section(struct str *o, const struct results *r)
{
    str_add(o, "<h2>The run</h2><dl>\n");
    fact(o, "results", r->path);
    fact(o, "created", r->created);
    fact(o, "host", r->host);
    fact(o, "device", r->device);
    fact(o, "instruction set", r->isa);
    fact(o, "driver", r->driver);
    fact(o, "libraries", r->libraries);
    struct str n = {0};
    str_printf(&n, "%d × %d", r->n_ranks, r->threads);
    fact(o, "ranks × threads", str_c(&n));
    str_free(&n);
    fact(o, "kvsweep", r->kvsweep_version);
    fact(o, "commit", r->git_commit);
    str_add(o, "</dl>\n<details><summary>configuration</summary><pre>");
    str_add_html(o, r->config_yaml ? r->config_yaml : "");
    str_add(o, "</pre></details>\n</body></html>\n");
}

static void page(const struct summary *s, struct str *o)
{
    head(o, s);
    settings_section(o, s);
    refused_section(o, s);
    needle_section(o, s);
    str_add(o, "<h2>Score versus bytes</h2>\n");
    for_models(s, frontier_part, o);
    str_add(o,
            "<p class=\"note\">Blue: no other setting has both fewer bytes and at least this score.</p>\n");
    tasks_section(o, s);
    fidelity_section(o, s);
    troubles(o, s);
    run_section(o, s->r);
}

static int put(const char *dir, const char *name, const struct str *text)
{
    char *path = file_join(dir, name);
    int rc = file_write_atomic(path, str_c(text), text->n);
    free(path);
    return rc;
}

/* File names given so far: every figure gets one of its own. */
struct names {
    char **name;
    int n, cap;
};

static void free_names(struct names *u)
{
    for (int i = 0; i < u->n; i++)
        free(u->name[i]);
    free(u->name);
}

static bool is_taken(const struct names *u, const char *name)
{
    for (int i = 0; i < u->n; i++)
        if (!strcmp(u->name[i], name))
            return true;
    return false;
}

/* Most bytes of a name before its number and ending: file systems take 255, with room for a temporary name.
 */
enum { NAME_BYTES = 200 };

/* Text as a file name. Where two texts give the same one, or more than a file system takes, a number follows.
 */
static const char *file_name(struct names *u, const char *text, const char *ext)
{
    char *stem = mem_strndup(text, strlen(text) < NAME_BYTES ? strlen(text) : NAME_BYTES);
    for (char *c = stem; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            *c = '_';
    char *name = mem_printf("%s%s", stem, ext);
    for (int k = 2; is_taken(u, name); k++) {
        free(name);
        name = mem_printf("%s_%d%s", stem, k, ext);
    }
    free(stem);
    *MEM_PUSH(u->name, u->n, u->cap) = name;
    return name;
}

static int put_table(const struct summary *s, const char *dir, const char *name,
                     void (*make)(const struct summary *, enum table_form, struct str *),
                     enum table_form form)
{
    struct str text = {0};
    make(s, form, &text);
    int rc = put(dir, name, &text);
    str_free(&text);
    return rc;
}

/* A table that some files do not have, as DIR/NAME.md and DIR/NAME.csv. */
static int put_if_any(const struct summary *s, const char *dir, const char *name,
                      bool (*make)(const struct summary *, enum table_form, struct str *))
{
    static const char *const ext[] = {[TABLE_MD] = ".md", [TABLE_CSV] = ".csv"};
    int rc = 0;
    for (enum table_form form = TABLE_MD; form <= TABLE_CSV && rc == 0; form++) {
        struct str text = {0};
        char *file = mem_printf("%s%s", name, ext[form]);
        if (make(s, form, &text))
            rc = put(dir, file, &text);
        free(file);
        str_free(&text);
    }
    return rc;
}

static int put_needle(const struct summary *s, const char *dir, int setting, int task, struct names *used)
{
    struct str fig = {0}, name = {0};
    int rc = 0;
    if (figure_needle(s, setting, task, &fig)) {
        str_add(&name, "needle_");
        summary_task_label(s->r, task, &name);
        str_printf(&name, "_%s", s->r->setting[setting].id);
        rc = put(dir, file_name(used, str_c(&name), ".svg"), &fig);
    }
    str_free(&fig);
    str_free(&name);
    return rc;
}

static int put_needles(const struct summary *s, const char *dir)
{
    struct names used = {0};
    int rc = 0;
    for (int t = 0; t < s->r->n_task; t++)
        for (int i = 0; i < s->r->n_setting && rc == 0; i++)
            rc = put_needle(s, dir, i, t, &used);
    free_names(&used);
    return rc;
}

struct put_ctx {
    const char *dir;
    struct names used;
    int rc;
};

static void put_frontier(const struct summary *s, const char *model, void *ctx)
{
    struct put_ctx *c = ctx;
    struct str fig = {0}, name = {0};
    figure_frontier(s, model, &fig);
    str_printf(&name, "frontier_%s", model);
    if (fig.n && c->rc == 0)
        c->rc = put(c->dir, file_name(&c->used, str_c(&name), ".svg"), &fig);
    str_free(&fig);
    str_free(&name);
}

static int write_all(const struct summary *s, const char *dir)
{
    TRY(file_mkdirs(dir));
    TRY(put_table(s, dir, "settings.md", table_settings, TABLE_MD));
    TRY(put_table(s, dir, "settings.csv", table_settings, TABLE_CSV));
    TRY(put_table(s, dir, "tasks.md", table_tasks, TABLE_MD));
    TRY(put_table(s, dir, "tasks.csv", table_tasks, TABLE_CSV));
    TRY(put_if_any(s, dir, "categories", table_categories));
    TRY(put_if_any(s, dir, "fidelity", table_fidelity));
    TRY(put_if_any(s, dir, "refused", table_refused));
    TRY(put_needles(s, dir));
    struct put_ctx c = {.dir = dir};
    for_models(s, put_frontier, &c);
    free_names(&c.used);
    TRY(c.rc);
    struct str html = {0};
    page(s, &html);
    int rc = put(dir, "index.html", &html);
    str_free(&html);
    return rc;
}

int report_write(const char *results_path, const char *dir, struct str *refused)
{
    struct results r;
    TRY(results_open(&r, results_path));
    struct summary s;
    summary_make(&s, &r, SUMMARY_ALL);
    int rc = write_all(&s, dir);
    summary_say_refused(&s, refused);
    summary_free(&s);
    results_close(&r);
    return rc;
}
