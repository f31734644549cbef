#include "hdf5io/table.h"

#include "base/mem.h"
#include "hdf5io/figure.h"

#include <math.h>
#include <stdio.h>
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

static void interval_cells(struct pen *p, struct interval i, bool sign)
{
    char buf[96];
    if (p->form == TABLE_CSV) {
        number(p, i.mean, "", "%.9g");
        number(p, i.lo, "", "%.9g");
        number(p, i.hi, "", "%.9g");
        return;
    }
    if (i.n == 0 || isnan(i.mean))
        snprintf(buf, sizeof buf, "–");
    else if (sign)
        snprintf(buf, sizeof buf, "%+.1f [%+.1f, %+.1f]", 100 * i.mean, 100 * i.lo, 100 * i.hi);
    else
        snprintf(buf, sizeof buf, "%.1f [%.1f, %.1f]", 100 * i.mean, 100 * i.lo, 100 * i.hi);
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

static void settings_head(struct pen *p)
{
    static const char *const people[] = {"setting",
                                         "score [95 %]",
                                         "difference to full [95 %]",
                                         "units",
                                         "KV bytes",
                                         "true ratio",
                                         "nominal",
                                         "peak bytes",
                                         "prefill (of limit)",
                                         "decode per token (of limit)"};
    static const char *const plain[] = {
        "setting",    "model",          "method",     "params",          "score",
        "score_lo",   "score_hi",       "diff",       "diff_lo",         "diff_hi",
        "n_ok",       "n_bad",          "kv_bytes",   "kv_bytes_device", "kv_bytes_full",
        "true_ratio", "nominal_ratio",  "peak_bytes", "s_prefill",       "prefill_of_limit",
        "s_token",    "decode_of_limit"};
    row_begin(p, true);
    if (p->form == TABLE_CSV)
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            cell(p, plain[i]);
    else
        for (size_t i = 0; i < sizeof people / sizeof *people; i++)
            cell(p, people[i]);
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
    interval_cells(p, o->score, false);
    interval_cells(p, o->diff, true);
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
    row_end(p);
}

void table_settings(const struct summary *s, enum table_form form, struct str *out)
{
    struct pen p = {.form = form, .out = out};
    settings_head(&p);
    for (int i = 0; i < s->r->n_setting; i++)
        settings_row(&p, s, i);
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
        cell(&p, str_c(&label));
        str_free(&label);
    }
    cell(&p, "mean");
    row_end(&p);
    for (int i = 0; i < r->n_setting; i++) {
        row_begin(&p, false);
        setting_cell(&p, r, i);
        for (int t = 0; t < r->n_task; t++)
            number(&p, 100 * s->cell[i * r->n_task + t].score.mean, "%.2f", "%.9g");
        number(&p, 100 * s->setting[i].score.mean, "%.2f", "%.9g");
        row_end(&p);
    }
}

bool table_fidelity(const struct summary *s, enum table_form form, struct str *out)
{
    static const char *const people[] = {
        "setting", "tokens", "mean KL (nats)", "largest KL", "same first choice", "log p of the full answer"};
    static const char *const plain[] = {"setting", "n_tokens", "kl_mean", "kl_max", "top1", "gold_logprob"};
    struct pen p = {.form = form, .out = out};
    const char *const *head = form == TABLE_CSV ? plain : people;
    bool any = false;
    for (int i = 0; i < s->r->n_setting; i++)
        any = any || s->setting[i].n_fidelity;
    if (!any)
        return false;
    row_begin(&p, true);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        cell(&p, head[i]);
    row_end(&p);
    for (int i = 0; i < s->r->n_setting; i++) {
        const struct summary_setting *o = &s->setting[i];
        row_begin(&p, false);
        setting_cell(&p, s->r, i);
        number(&p, (double)o->n_fidelity, "%.0f", "%.0f");
        number(&p, o->kl, "%.3g", "%.9g");
        number(&p, o->kl_max, "%.3g", "%.9g");
        number(&p, form == TABLE_CSV ? o->top1 : 100 * o->top1, "%.1f %%", "%.9g");
        number(&p, o->gold_logprob, "%.3f", "%.9g");
        row_end(&p);
    }
    return true;
}
