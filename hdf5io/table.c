#include "hdf5io/table.h"

#include "base/mem.h"
#include "hdf5io/figure.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Writes cells of one table in one form. */
struct pen {
    enum table_form form;
    struct str *out;
    int col;
    bool head;
};

static void row_begin(struct pen *p, bool head)
{
    p->col = 0;
    p->head = head;
    if (p->form == TABLE_HTML)
        str_add(p->out, "<tr>");
}

/* A bar would end the cell, a line end the table; names are neither links nor HTML. */
static void add_markdown(struct str *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("|\\[", *text))
            str_addc(out, '\\');
        if (*text == '<')
            str_add(out, "&lt;");
        else
            str_addc(out, *text == '\n' || *text == '\r' ? ' ' : *text);
    }
}

static void cell(struct pen *p, const char *text)
{
    if (p->form == TABLE_HTML) {
        str_add(p->out, p->head ? "<th>" : p->col == 0 ? "<td class=\"name\">" : "<td>");
        str_add_html(p->out, text);
        str_add(p->out, p->head ? "</th>" : "</td>");
    } else if (p->form == TABLE_MD) {
        str_add(p->out, "| ");
        add_markdown(p->out, text);
        str_addc(p->out, ' ');
    } else {
        str_add(p->out, p->col ? "," : "");
        str_add_csv(p->out, text, strlen(text));
    }
    p->col++;
}

static void row_end(struct pen *p)
{
    str_add(p->out, p->form == TABLE_HTML ? "</tr>\n" : p->form == TABLE_MD ? "|\n" : "\n");
    if (p->form == TABLE_MD && p->head) {
        for (int i = 0; i < p->col; i++)
            str_add(p->out, i ? "|--:" : "|:--");
        str_add(p->out, "|\n");
    }
}

/* A number for people, or the plain number for CSV; an en dash (or nothing) where there is none. */
static void number(struct pen *p, double v, const char *people, const char *plain)
{
    char buf[64];
    if (isnan(v))
        snprintf(buf, sizeof buf, "%s", p->form == TABLE_CSV ? "" : "–");
    else {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(buf, sizeof buf, p->form == TABLE_CSV ? plain : people, v);
#pragma GCC diagnostic pop
    }
    cell(p, buf);
}

/* "83.33 [79.6, 86.5]"; a star says that the interval is conservative, a dash that there is none. */
static void interval_text(char out[128], struct interval i, double scale, const char *mean, const char *end)
{
    char m[32], lo[32], hi[32];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(m, sizeof m, mean, scale * i.mean);
    snprintf(lo, sizeof lo, end, scale * i.lo);
    snprintf(hi, sizeof hi, end, scale * i.hi);
#pragma GCC diagnostic pop
    if (isnan(i.mean))
        snprintf(out, 128, "–");
    else if (i.kind == INTERVAL_NONE)
        snprintf(out, 128, "%s [–]", m);
    else
        snprintf(out, 128, "%s [%s, %s]%s", m, lo, hi, interval_conservative(&i) ? "*" : "");
}

static void interval_cells(struct pen *p, struct interval i, bool sign)
{
    char buf[128];
    if (p->form == TABLE_CSV) {
        number(p, i.mean, "", "%.9g");
        number(p, i.lo, "", "%.9g");
        number(p, i.hi, "", "%.9g");
        return;
    }
    interval_text(buf, i, 100, sign ? "%+.2f" : "%.2f", sign ? "%+.1f" : "%.1f");
    cell(p, buf);
}

static void bytes(struct pen *p, double v)
{
    char buf[32];
    if (p->form == TABLE_CSV) {
        number(p, v, "", "%.0f");
        return;
    }
    if (isnan(v))
        snprintf(buf, sizeof buf, "–");
    else
        str_bytes(buf, v);
    cell(p, buf);
}

/* Where a part of a cache waits in host memory, people see what the device holds too. */
static void cache_bytes(struct pen *p, const struct summary_setting *o)
{
    if (p->form == TABLE_CSV) {
        bytes(p, o->kv_bytes);
        bytes(p, o->device_bytes);
        bytes(p, o->kv_bytes_full);
    } else if (o->device_bytes > 0 && o->device_bytes < o->kv_bytes) {
        char all[32], device[32], both[80];
        str_bytes(all, o->kv_bytes);
        str_bytes(device, o->device_bytes);
        snprintf(both, sizeof both, "%s (device %s)", all, device);
        cell(p, both);
    } else {
        bytes(p, o->kv_bytes);
    }
}

/* Seconds beside the share of the limit that was reached. */
static void timed(struct pen *p, double s, double limit)
{
    char buf[64];
    if (p->form == TABLE_CSV) {
        number(p, s, "", "%.6g");
        number(p, limit, "", "%.4g");
        return;
    }
    if (isnan(s))
        snprintf(buf, sizeof buf, "–");
    else if (isnan(limit))
        snprintf(buf, sizeof buf, s < 1 ? "%.1f ms" : "%.2f s", s < 1 ? 1e3 * s : s);
    else
        snprintf(buf, sizeof buf, s < 1 ? "%.1f ms (%.0f %%)" : "%.2f s (%.0f %%)", s < 1 ? 1e3 * s : s,
                 100 * limit);
    cell(p, buf);
}

/* What a whole is called in the head of a column: where there is one only, that goes without saying. */
static void whole_name(struct pen *p, const struct means *m, int w, const char *alone, const char *behind)
{
    char buf[128];
    if (m->n_whole < 2)
        snprintf(buf, sizeof buf, "%s%s", alone, behind);
    else
        snprintf(buf, sizeof buf, "%s%s",
                 strcmp(m->whole[w].name, "longbench") ? m->whole[w].name : "LongBench", behind);
    cell(p, buf);
}

static void cells(struct pen *p, const char *const *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cell(p, text[i]);
}

/* Columns of CSV keep their places: what came later stands behind. */
static const char *const comparison_columns[] = {"score_of",  "score_interval", "diff_interval",
                                                 "diff_test", "diff_n",         "diff_n_discordant",
                                                 "diff_p",    "diff_p_holm",    "diff_detectable"};
enum { COMPARISON_COLUMNS = sizeof comparison_columns / sizeof *comparison_columns };

static void comparison_cells(struct pen *p, const char *name, const struct summary_whole *w)
{
    cell(p, name);
    cell(p, interval_name(w->score.kind));
    cell(p, interval_name(w->diff.effect.kind));
    cell(p, test_name(w->diff.test));
    number(p, (double)w->diff.effect.n, "", "%.0f");
    number(p, (double)w->diff.n_discordant, "", "%.0f");
    number(p, w->diff.p, "", "%.9g");
    number(p, w->diff.p_holm, "", "%.9g");
    number(p, w->diff.detectable, "", "%.9g");
}

static void plain_head(struct pen *p, const struct means *m)
{
    static const char *const plain[] = {
        "setting",    "model",          "method",     "params",          "score",
        "score_lo",   "score_hi",       "diff",       "diff_lo",         "diff_hi",
        "n_ok",       "n_bad",          "kv_bytes",   "kv_bytes_device", "kv_bytes_full",
        "true_ratio", "nominal_ratio",  "peak_bytes", "s_prefill",       "prefill_of_limit",
        "s_token",    "decode_of_limit"};
    char buf[128];
    cells(p, plain, sizeof plain / sizeof *plain);
    cells(p, comparison_columns, COMPARISON_COLUMNS);
    for (int w = 1; w < m->n_whole; w++) {
        const char *name = m->whole[w].name;
        for (int i = 4; i < 10; i++) {
            snprintf(buf, sizeof buf, "%s_%s", name, plain[i]);
            cell(p, buf);
        }
        for (int i = 0; i < COMPARISON_COLUMNS; i++) {
            snprintf(buf, sizeof buf, "%s_%s", name, comparison_columns[i]);
            cell(p, buf);
        }
    }
}

static void settings_head(struct pen *p, const struct means *m)
{
    static const char *const rest[] = {"units",
                                       "KV bytes",
                                       "true ratio",
                                       "nominal",
                                       "peak bytes",
                                       "prefill (of limit)",
                                       "decode per token (of limit)"};
    row_begin(p, true);
    if (p->form == TABLE_CSV) {
        plain_head(p, m);
    } else {
        cell(p, "setting");
        for (int w = 0; w < m->n_whole; w++) {
            whole_name(p, m, w, "score", " [95 %]");
            whole_name(p, m, w, "difference",
                       m->n_whole < 2 ? " to full [95 %]" : ": difference to full [95 %]");
            whole_name(p, m, w, "p (Holm)", m->n_whole < 2 ? "" : ": p (Holm)");
            whole_name(p, m, w, "could show", m->n_whole < 2 ? "" : ": could show");
        }
        cells(p, rest, sizeof rest / sizeof *rest);
    }
    row_end(p);
}

/* People see the model's name only where there are several. */
static void setting_cell(struct pen *p, const struct results *r, int i)
{
    char name[256];
    bool one = true;
    for (int k = 1; k < r->n_setting; k++)
        one = one && !strcmp(r->setting[k].model, r->setting[0].model);
    cell(p,
         p->form == TABLE_CSV || !one ? r->setting[i].id : figure_label(&r->setting[i], name, sizeof name));
}

/* Score, difference, adjusted p and the least difference that could show. */
static void whole_cells(struct pen *p, const struct summary_whole *w)
{
    interval_cells(p, w->score, false);
    interval_cells(p, w->diff.effect, true);
    if (p->form == TABLE_CSV)
        return;
    if (w->diff.p_holm < 0.001)
        cell(p, "< 0.001");
    else
        number(p, w->diff.p_holm, "%.3f", "");
    number(p, 100 * w->diff.detectable, "±%.1f", "");
}

static const struct summary_whole no_whole = {
    .score = {NAN, NAN, NAN, 0, INTERVAL_NONE},
    .diff = {.effect = {NAN, NAN, NAN, 0, INTERVAL_NONE}, .p = NAN, .p_holm = NAN, .detectable = NAN}};

static void settings_row(struct pen *p, const struct summary *s, int i)
{
    const struct sink_setting *st = &s->r->setting[i];
    const struct summary_setting *o = &s->setting[i];
    char buf[64];
    row_begin(p, false);
    setting_cell(p, s->r, i);
    if (p->form == TABLE_CSV) {
        cell(p, st->model);
        cell(p, st->method);
        cell(p, st->params);
    }
    const int n_whole = s->means.n_whole;
    const struct summary_whole *w = n_whole ? s->whole + i * n_whole : &no_whole;
    for (int k = 0; k < (p->form == TABLE_CSV ? 1 : n_whole); k++)
        whole_cells(p, w + k);
    if (p->form == TABLE_CSV) {
        number(p, (double)(o->n_done - o->n_bad), "", "%.0f");
        number(p, (double)o->n_bad, "", "%.0f");
    } else {
        snprintf(buf, sizeof buf, o->n_bad ? "%lld, %lld not ok" : "%lld", (long long)o->n_done,
                 (long long)o->n_bad);
        cell(p, buf);
    }
    cache_bytes(p, o);
    number(p, o->ratio, "%.2f×", "%.6g");
    number(p, st->nominal_ratio, "%.2f×", "%.6g");
    bytes(p, o->peak_bytes);
    timed(p, o->s_prefill, o->prefill_limit);
    timed(p, o->s_token, o->decode_limit);
    for (int k = 0; p->form == TABLE_CSV && k < (n_whole ? n_whole : 1); k++) {
        if (k)
            whole_cells(p, w + k);
        comparison_cells(p, n_whole ? s->means.whole[k].name : "", w + k);
    }
    row_end(p);
}

void table_settings(const struct summary *s, enum table_form form, struct str *out)
{
    struct pen p = {.form = form, .out = out};
    settings_head(&p, &s->means);
    for (int i = 0; i < s->r->n_setting; i++)
        if (!summary_refused(s, i))
            settings_row(&p, s, i);
}

/* The head of a column with an interval: one for people, three for programs. */
static void head_cells(struct pen *p, const char *name)
{
    static const char *const behind[] = {"", "_lo", "_hi"};
    for (int i = 0; i < (p->form == TABLE_CSV ? 3 : 1); i++) {
        char *text = mem_printf("%s%s", name, behind[i]);
        cell(p, text);
        free(text);
    }
}

/* In percent, for programs too. */
static void percent_cells(struct pen *p, struct interval i)
{
    i.mean *= p->form == TABLE_CSV ? 100 : 1;
    i.lo *= p->form == TABLE_CSV ? 100 : 1;
    i.hi *= p->form == TABLE_CSV ? 100 : 1;
    interval_cells(p, i, false);
}

static void wholes_head(struct pen *p, const struct means *m)
{
    for (int w = 0; w < m->n_whole; w++) {
        char *text = m->n_whole < 2 ? mem_strdup("mean") : mem_printf("mean of %s", m->whole[w].name);
        head_cells(p, text);
        free(text);
    }
    row_end(p);
}

static void wholes_cells(struct pen *p, const struct summary *s, int setting)
{
    for (int w = 0; w < s->means.n_whole; w++)
        percent_cells(p, s->whole[setting * s->means.n_whole + w].score);
    row_end(p);
}

void table_tasks(const struct summary *s, enum table_form form, struct str *out)
{
    struct pen p = {.form = form, .out = out};
    const struct results *r = s->r;
    row_begin(&p, true);
    cell(&p, "setting");
    for (int t = 0; t < r->n_task; t++) {
        struct str label = {0};
        summary_task_label(r, t, &label);
        head_cells(&p, str_c(&label));
        str_free(&label);
    }
    wholes_head(&p, &s->means);
    for (int i = 0; i < r->n_setting; i++) {
        if (summary_refused(s, i))
            continue;
        row_begin(&p, false);
        setting_cell(&p, r, i);
        for (int t = 0; t < r->n_task; t++)
            percent_cells(&p, s->cell[i * r->n_task + t].score);
        wholes_cells(&p, s, i);
    }
}

bool table_categories(const struct summary *s, enum table_form form, struct str *out)
{
    struct pen p = {.form = form, .out = out};
    const struct means *m = &s->means;
    if (m->n_category < 2)
        return false;
    row_begin(&p, true);
    cell(&p, "setting");
    for (int c = 0; c < m->n_category; c++)
        head_cells(&p, m->category[c].name);
    wholes_head(&p, m);
    for (int i = 0; i < s->r->n_setting; i++) {
        if (summary_refused(s, i))
            continue;
        row_begin(&p, false);
        setting_cell(&p, s->r, i);
        for (int c = 0; c < m->n_category; c++)
            percent_cells(&p, s->category[i * m->n_category + c]);
        wholes_cells(&p, s, i);
    }
    return true;
}

static void fidelity_cells(struct pen *p, struct interval i, double scale, const char *form)
{
    char buf[128];
    if (p->form == TABLE_CSV) {
        interval_cells(p, i, false);
        return;
    }
    interval_text(buf, i, scale, form, form);
    cell(p, buf);
}

bool table_fidelity(const struct summary *s, enum table_form form, struct str *out)
{
    static const char *const people[] = {"setting",
                                         "tokens",
                                         "mean KL (nats) [95 %]",
                                         "largest KL",
                                         "same first choice, % [95 %]",
                                         "log p of the full answer [95 %]"};
    static const char *const plain[] = {
        "setting", "n_tokens", "kl_mean", "kl_mean_lo",   "kl_mean_hi",      "kl_max",
        "top1",    "top1_lo",  "top1_hi", "gold_logprob", "gold_logprob_lo", "gold_logprob_hi"};
    struct pen p = {.form = form, .out = out};
    bool any = false;
    for (int i = 0; i < s->r->n_setting; i++)
        any = any || s->setting[i].n_fidelity;
    if (!any)
        return false;
    row_begin(&p, true);
    if (form == TABLE_CSV)
        cells(&p, plain, sizeof plain / sizeof *plain);
    else
        cells(&p, people, sizeof people / sizeof *people);
    row_end(&p);
    for (int i = 0; i < s->r->n_setting; i++) {
        const struct summary_setting *o = &s->setting[i];
        if (summary_refused(s, i))
            continue;
        row_begin(&p, false);
        setting_cell(&p, s->r, i);
        number(&p, (double)o->n_fidelity, "%.0f", "%.0f");
        fidelity_cells(&p, o->kl, 1, "%.3g");
        number(&p, o->kl_max, "%.3g", "%.9g");
        fidelity_cells(&p, o->top1, 100, "%.1f");
        fidelity_cells(&p, o->gold_logprob, 1, "%.3f");
        row_end(&p);
    }
    return true;
}

bool table_refused(const struct summary *s, enum table_form form, struct str *out)
{
    static const char *const head[] = {"setting", "refused"};
    struct pen p = {.form = form, .out = out};
    bool any = false;
    for (int i = 0; i < s->r->n_setting; i++) {
        const char *why = summary_refused(s, i);
        if (!why)
            continue;
        if (!any) {
            row_begin(&p, true);
            cells(&p, head, 2);
            row_end(&p);
        }
        any = true;
        row_begin(&p, false);
        cell(&p, s->r->setting[i].id);
        cell(&p, why);
        row_end(&p);
    }
    return any;
}
