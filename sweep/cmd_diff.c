/* Paired comparison of settings, in one results file or across two: the same examples under both. */
#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/book.h"
#include "hdf5io/stats.h"
#include "hdf5io/summary.h"
#include "kv/kv.h"
#include "sweep/app.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct diff_args {
    const char *path[2], *settings;
    int n_path;
    bool json, across;
};

enum { KEY_ACROSS = 0x100 };

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct diff_args *a = state->input;
    if (key == 's') {
        a->settings = arg;
    } else if (key == 'j') {
        a->json = true;
    } else if (key == KEY_ACROSS) {
        a->across = true;
    } else if (key == ARGP_KEY_ARG && a->n_path < 2) {
        a->path[a->n_path++] = arg;
    } else if (key == ARGP_KEY_END && (a->n_path == 0 || !a->settings)) {
        fprintf(stderr, "%s: write kvsweep diff A.h5 [B.h5] --settings X,Y\n", state->name);
        exit(1);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* What `name` may mean: an id or its end behind a slash ("kivi:bits=2"), also without what stands behind an
 * id that several rows share ("tiny/full" for "tiny/full@bf16"). */
static bool is_named(const struct sink_setting *s, const char *name)
{
    size_t n = strlen(name), whole = strlen(s->id), plain = book_plain_id(s);
    for (int k = 0; k < 2; k++) {
        size_t m = k ? plain : whole;
        if (m >= n && !memcmp(s->id + m - n, name, n) && (m == n || s->id[m - n - 1] == '/'))
            return true;
    }
    return false;
}

/* How many settings `name` means, and the first of them. */
static int count_settings(const struct results *r, const char *name, int *row)
{
    int hits = 0;
    for (int i = 0; i < r->n_setting; i++) {
        if (!strcmp(r->setting[i].id, name)) {
            *row = i;
            return 1;
        }
        if (is_named(&r->setting[i], name) && hits++ == 0)
            *row = i;
    }
    return hits;
}

/* The same with a method as configurations write it: "streaming:ratio=4", MODEL/ before it if there are
 * several. */
static int count_asked(const struct results *r, const char *name, int *row)
{
    const char *slash = strrchr(name, '/');
    size_t model = slash ? (size_t)(slash + 1 - name) : 0;
    struct kv_spec spec;
    if (kv_spec_parse(&spec, name + model) < 0)
        return 0;
    char *id = mem_printf("%.*s%s", (int)model, name, spec.label);
    int hits = count_settings(r, id, row);
    free(id);
    kv_spec_free(&spec);
    return hits;
}

static int refuse_many(const struct results *r, const char *name, int hits)
{
    struct str all = {0};
    for (int i = 0; i < r->n_setting; i++)
        if (is_named(&r->setting[i], name))
            str_printf(&all, "%s%s", all.n ? ", " : "", r->setting[i].id);
    int rc = err_set(ERR_INPUT, "%s: setting '%s' names %d rows%s%s; write one id in full", r->path, name,
                     hits, all.n ? ": " : "", str_c(&all));
    str_free(&all);
    return rc;
}

static int find_setting(const struct results *r, const char *name, int *row)
{
    const char *ids[256];
    int n_id = 0, hits = count_settings(r, name, row);
    if (!hits)
        hits = count_asked(r, name, row);
    while (n_id < r->n_setting && n_id < 255) {
        ids[n_id] = r->setting[n_id].id;
        n_id++;
    }
    ids[n_id] = NULL;
    if (hits == 1 && *r->setting[*row].refused)
        return err_set(ERR_INPUT, "%s: setting %s could not run: %s", r->path, name,
                       r->setting[*row].refused);
    if (hits == 1)
        return 0;
    if (hits > 1)
        return refuse_many(r, name, hits);
    const char *near = str_nearest(name, ids);
    return err_set(ERR_INPUT, "%s: no setting '%s'%s%s", r->path, name, near ? "; nearest: " : "",
                   near ? near : "");
}

/* One side of the comparison; both may look at one file. */
struct side {
    const struct results *r;
    const struct summary *s;
    int setting;
};

static void add_difference(struct str *out, const char *name, const char *x, const char *y)
{
    if (strcmp(x, y) != 0)
        str_printf(out, "%s%s (%s and %s)", out->n ? ", " : "", name, *x ? x : "none", *y ? y : "none");
}

/* What tells the two rows apart beside what is done to cache and prompts. Two models have templates and
 * lengths of their own; of one model they must be equal. */
static void differences(const struct side *x, const struct side *y, struct str *out)
{
    const struct sink_setting *a = &x->r->setting[x->setting], *b = &y->r->setting[y->setting];
    char len[2][24];
    add_difference(out, "mode", x->r->mode, y->r->mode);
    add_difference(out, "protocol", a->protocol, b->protocol);
    add_difference(out, "dtype", a->dtype, b->dtype);
    add_difference(out, "cache_dtype", a->cache_dtype, b->cache_dtype);
    if (strcmp(a->model, b->model) != 0)
        return;
    add_difference(out, "model_hash", a->model_hash, b->model_hash);
    add_difference(out, "stop_ids", a->stop_ids, b->stop_ids);
    if (strcmp(book_template_texts(a), book_template_texts(b)) != 0) {
        char *ta = mem_strndup(a->template, strcspn(a->template, " ")),
             *tb = mem_strndup(b->template, strcspn(b->template, " "));
        if (strcmp(ta, tb) != 0)
            add_difference(out, "template", ta, tb);
        else
            str_printf(out, "%sthe texts of template %s", out->n ? ", " : "", ta);
        free(ta);
        free(tb);
    }
    snprintf(len[0], sizeof len[0], "%" PRId64, a->max_len);
    snprintf(len[1], sizeof len[1], "%" PRId64, b->max_len);
    add_difference(out, "max_len", len[0], len[1]);
}

/* A difference between two rows is one of their methods only where all else is equal. */
static int check_sides(const struct diff_args *a, const struct side *x, const struct side *y)
{
    const struct sink_setting *s = &x->r->setting[x->setting], *t = &y->r->setting[y->setting];
    if (*s->weights_xxh3 && *t->weights_xxh3 && !strcmp(s->model_hash, t->model_hash) &&
        strcmp(s->weights_xxh3, t->weights_xxh3) != 0)
        return err_set(ERR_INPUT,
                       "%s and %s hold model %s with different weights under the same model hash %s "
                       "(weights_xxh3 %s and %s): they are two models and cannot be compared as one",
                       x->r->path, y->r->path, s->model, s->model_hash, s->weights_xxh3, t->weights_xxh3);
    struct str what = {0};
    int rc = 0;
    differences(x, y, &what);
    if (what.n && !a->across)
        rc = err_set(
            ERR_INPUT,
            "%s of %s and %s of %s differ in more than the method: %s; --across compares them all the same",
            s->id, x->r->path, t->id, y->r->path, str_c(&what));
    str_free(&what);
    return rc;
}

/* Scores of the examples that both sides have, by the first side's tasks. */
struct pairs {
    struct score_set a, b, d;
    int64_t wins, losses, ties, both_answers;
    int64_t alone_a, alone_b; /* finished units without a partner */
};

/* A line of the table: a task, a category or a whole. */
struct line {
    char *name;
    const char *level;
    struct interval a, b;
    struct comparison d;
};
struct lines {
    struct line *line;
    int n, cap;
};

/* For every task of x the row of y that holds the same examples, or -1. A name alone says little: the same
 * task with another seed or other rows asks other questions. */
static int *match_tasks(const struct results *x, const struct results *y)
{
    int *to = mem_alloc((size_t)x->n_task, sizeof *to);
    for (int i = 0; i < x->n_task; i++) {
        const struct sink_task *a = &x->task[i];
        to[i] = -1;
        for (int k = 0; k < y->n_task && to[i] < 0; k++) {
            const struct sink_task *b = &y->task[k];
            if (!strcmp(a->id, b->id) && !strcmp(a->params, b->params) &&
                !strcmp(a->source_sha256, b->source_sha256))
                to[i] = k;
        }
    }
    return to;
}

/* Row of the same example in the other file, or -1. What is sent of it may differ (methods shorten prompts,
 * models have templates); its name and its right answers may not. */
static int64_t partner(const struct side *x, int64_t row, const struct side *y, const int *task_of)
{
    const struct sink_example *e = &x->r->example[row];
    if (x->r == y->r)
        return row;
    const struct sink_example *o =
        task_of[e->task] < 0 ? NULL : results_example(y->r, task_of[e->task], e->example);
    return o && !strcmp(o->id, e->id) && !strcmp(o->gold_json, e->gold_json) ? o - y->r->example : -1;
}

static int64_t count_scored(const struct side *x)
{
    int64_t n = 0;
    for (int64_t i = 0; i < x->r->n_example; i++)
        n += means_counts(summary_unit(x->s, x->setting, i));
    return n;
}

static void add_pair(struct pairs *p, int task, const struct record *u, const struct record *v)
{
    score_set_add(&p->a, task, u->score);
    score_set_add(&p->b, task, v->score);
    score_set_add(&p->d, task, u->score - v->score);
    p->wins += u->score > v->score, p->losses += u->score < v->score, p->ties += u->score == v->score;
    p->both_answers += u->text && v->text && record_same_text(u, v);
}

static void pair_up(const struct side *x, const struct side *y, struct pairs *p)
{
    const struct results *r = x->r;
    *p = (struct pairs){0};
    score_set_init(&p->a, r->n_task);
    score_set_init(&p->b, r->n_task);
    score_set_init(&p->d, r->n_task);
    int *task_of = match_tasks(r, y->r);
    for (int64_t i = 0; i < r->n_example; i++) { /* ordered by task */
        int64_t k = partner(x, i, y, task_of);
        const struct record *u = summary_unit(x->s, x->setting, i);
        const struct record *v = k < 0 ? NULL : summary_unit(y->s, y->setting, k);
        if (means_counts(u) && means_counts(v))
            add_pair(p, r->example[i].task, u, v);
    }
    score_set_ready(&p->a, SAMPLE_SCORES);
    score_set_ready(&p->b, SAMPLE_SCORES);
    score_set_ready(&p->d, SAMPLE_DIFFERENCES);
    p->alone_a = count_scored(x) - p->d.n;
    p->alone_b = count_scored(y) - p->d.n;
    free(task_of);
}

static void pairs_free(struct pairs *p)
{
    score_set_free(&p->a);
    score_set_free(&p->b);
    score_set_free(&p->d);
}

static void add_line(struct lines *l, struct pairs *p, const struct means *m, const char *level, char *name,
                     const struct means_group *g, struct resampler *r)
{
    const struct comparison d = score_set_compare(&p->d, g->task, g->n_task, r);
    const bool task = !strcmp(level, "task");
    if (d.effect.n == 0) {
        free(name);
        return;
    }
    *MEM_PUSH(l->line, l->n, l->cap) = (struct line){
        .name = name,
        .level = level,
        .a = task ? score_set_task(&p->a, m, g->task[0], r) : score_set_group(&p->a, m, g, r),
        .b = task ? score_set_task(&p->b, m, g->task[0], r) : score_set_group(&p->b, m, g, r),
        .d = d,
    };
}

/* P values of lines [from, n) are adjusted together: those of tasks, of categories, of wholes. */
static void adjust(struct lines *l, int from)
{
    const int n = l->n - from;
    double *p = mem_alloc((size_t)n + 1, sizeof *p), *holm = mem_alloc((size_t)n + 1, sizeof *holm);
    for (int i = 0; i < n; i++)
        p[i] = l->line[from + i].d.p;
    stats_holm(p, n, holm);
    for (int i = 0; i < n; i++)
        l->line[from + i].d.p_holm = holm[i];
    free(p);
    free(holm);
}

/* Tasks, then categories of several tasks, then wholes. */
static void make_lines(const struct side *x, struct pairs *p, struct lines *l)
{
    const struct means *m = &x->s->means;
    struct resampler r = {0};
    for (int t = 0; t < m->n_task; t++) {
        struct str label = {0};
        summary_task_label(x->r, t, &label);
        add_line(l, p, m, "task", mem_strdup(str_c(&label)), &(struct means_group){.task = &t, .n_task = 1},
                 &r);
        str_free(&label);
    }
    adjust(l, 0);
    int from = l->n;
    for (int c = 0; c < m->n_category; c++)
        if (m->category[c].n_task > 1 && m->longbench[m->category[c].task[0]]) /* others are wholes */
            add_line(l, p, m, "category", mem_strdup(m->category[c].name), &m->category[c], &r);
    adjust(l, from);
    from = l->n;
    for (int w = 0; w < m->n_whole; w++)
        add_line(l, p, m, "whole",
                 m->n_whole < 2 ? mem_strdup("mean of tasks") : mem_printf("mean of %s", m->whole[w].name),
                 &m->whole[w], &r);
    adjust(l, from);
    resampler_free(&r);
}

static void lines_free(struct lines *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->line[i].name);
    free(l->line);
}

static void add_json_text(struct str *out, const char *name, const char *text)
{
    str_printf(out, "\"%s\": ", name);
    str_add_json(out, text, strlen(text));
}

/* JSON knows neither NaN nor infinity. */
static void add_json_real(struct str *out, const char *name, double v)
{
    if (isfinite(v))
        str_printf(out, ", \"%s\": %.17g", name, v);
    else
        str_printf(out, ", \"%s\": null", name);
}

static void print_text(const struct line *l, struct str *out)
{
    const struct comparison *d = &l->d;
    str_printf(out, "%s\t%lld\t%.2f\t%.2f\t%+.2f\t", l->name, (long long)d->effect.n, 100 * l->a.mean,
               100 * l->b.mean, 100 * d->effect.mean);
    if (d->effect.kind == INTERVAL_NONE)
        str_add(out, "–");
    else
        str_printf(out, "[%+.2f, %+.2f]%s", 100 * d->effect.lo, 100 * d->effect.hi,
                   interval_conservative(&d->effect) ? "*" : "");
    str_printf(out, isnan(d->p) ? "\t–" : "\t%.4f", d->p);
    str_printf(out, isnan(d->p_holm) ? "\t–" : "\t%.4f", d->p_holm);
    str_printf(out, isnan(d->detectable) ? "\t–\n" : "\t%.2f\n", 100 * d->detectable);
}

static void print_json(const struct line *l, struct str *out)
{
    const struct comparison *d = &l->d;
    str_addc(out, '{');
    add_json_text(out, "task", l->name);
    str_printf(out, ", \"level\": \"%s\"", l->level);
    add_json_real(out, "a", l->a.mean);
    add_json_real(out, "b", l->b.mean);
    add_json_real(out, "effect", d->effect.mean);
    add_json_real(out, "lo", d->effect.lo);
    add_json_real(out, "hi", d->effect.hi);
    str_printf(out, ", \"n\": %lld, \"n_discordant\": %lld", (long long)d->effect.n,
               (long long)d->n_discordant);
    add_json_real(out, "p", d->p);
    add_json_real(out, "p_holm", d->p_holm);
    str_printf(out, ", \"test\": \"%s\", \"interval\": \"%s\"", test_name(d->test),
               interval_name(d->effect.kind));
    add_json_real(out, "detectable", d->detectable);
    str_addc(out, '}');
}

static void print_lines(const struct diff_args *a, const struct lines *l, struct str *out)
{
    for (int i = 0; i < l->n; i++) {
        if (a->json && i)
            str_add(out, ", ");
        (a->json ? print_json : print_text)(&l->line[i], out);
    }
}

static void print(const struct diff_args *a, const struct side *x, const struct side *y,
                  const struct pairs *p, const struct lines *l)
{
    struct str out = {0};
    const char *ida = x->r->setting[x->setting].id, *idb = y->r->setting[y->setting].id;
    const long long better = p->wins, worse = p->losses, equal = p->ties, same = p->both_answers;
    if (a->json) {
        str_addc(&out, '{');
        add_json_text(&out, "a", ida);
        str_add(&out, ", ");
        add_json_text(&out, "b", idb);
        str_add(&out, ", \"tasks\": [");
        print_lines(a, l, &out);
        str_printf(&out,
                   "], \"better\": %lld, \"worse\": %lld, \"equal\": %lld, \"same_answer\": %lld, "
                   "\"unpaired_a\": %lld, \"unpaired_b\": %lld}\n",
                   better, worse, equal, same, (long long)p->alone_a, (long long)p->alone_b);
        fputs(out.data, stdout);
    } else {
        str_printf(&out, "task\tn\t%s\t%s\tdifference\t95 %%\tp\tp (Holm)\tcould show\n", ida, idb);
        print_lines(a, l, &out);
        app_table(stdout, out.data, "12345678");
        printf("first better on %lld, worse on %lld, equal on %lld examples; same answer on %lld\n", better,
               worse, equal, same);
        if (p->alone_a || p->alone_b)
            printf("left out for want of the same example on the other side: %lld of the first, %lld of the "
                   "second\n",
                   (long long)p->alone_a, (long long)p->alone_b);
    }
    str_free(&out);
}

static int compare(const struct diff_args *a, struct side *x, struct side *y)
{
    char *names = mem_strdup(a->settings);
    /* a method's text holds commas too; the one that parts the two names stands before a name that exists */
    int rc = ERR_INPUT;
    for (char *comma = strchr(names, ','); comma && rc < 0; comma = strchr(comma + 1, ',')) {
        *comma = 0;
        rc = find_setting(x->r, names, &x->setting);
        if (rc == 0)
            rc = find_setting(y->r, comma + 1, &y->setting);
        *comma = ',';
    }
    if (rc < 0 && !strchr(names, ','))
        rc = err_set(ERR_INPUT, "--settings takes two names, X,Y");
    free(names);
    TRY(rc);
    TRY(check_sides(a, x, y));
    struct pairs p;
    struct lines l = {0};
    pair_up(x, y, &p);
    if (p.d.n == 0)
        rc = err_set(ERR_INPUT, "the two settings have no finished example in common (the same task, "
                                "parameters, data and example)");
    else {
        make_lines(x, &p, &l);
        print(a, x, y, &p, &l);
    }
    lines_free(&l);
    pairs_free(&p);
    return rc;
}

int cmd_diff(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"settings", 's', "X,Y", 0,
         "the two settings: ids of /settings, their last part, or the method as configurations write it", 0},
        {"json", 'j', 0, 0, "JSON instead of a table", 0},
        {"across", KEY_ACROSS, 0, 0,
         "compare also where the two differ in more than the method: mode, protocol, template, max_len, "
         "dtype, "
         "model files",
         0},
        {0},
    };
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "A.h5 [B.h5]",
                                     .doc = "Compares X (of A.h5) with Y (of B.h5, or A.h5) on the same "
                                            "examples: paired differences with 95 % "
                                            "intervals, p values and the least difference that the "
                                            "sample could show."};
    struct diff_args a = {0};
    app_parse(app, &argp, argc, argv, &a);
    struct results r[2] = {{0}};
    struct summary s[2] = {{0}};
    int rc = 0, last = a.n_path - 1;
    for (int i = 0; i <= last && rc == 0; i++) {
        rc = results_open(&r[i], a.path[i]);
        if (rc == 0)
            summary_make(&s[i], &r[i], SUMMARY_COUNTS);
    }
    struct side x = {&r[0], &s[0], 0}, y = {&r[last], &s[last], 0};
    if (rc == 0)
        rc = compare(&a, &x, &y);
    for (int i = 0; i <= last; i++) {
        summary_free(&s[i]);
        results_close(&r[i]);
    }
    return rc;
}
