/* Paired comparison of settings, in one results file or across two: the same examples under both. */
#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/book.h"
#include "hdf5io/summary.h"
#include "kv/kv.h"
#include "sweep/app.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct diff_args {
    const char *path[2], *settings;
    int n_path;
    bool json;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct diff_args *a = state->input;
    if (key == 's') {
        a->settings = arg;
    } else if (key == 'j') {
        a->json = true;
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

/* Scores of the examples that both sides have, grouped by the first side's tasks; n_task + 1 ends in at[]. */
struct pairs {
    double *a, *b;
    int64_t *at;
    int n_task;
    int64_t wins, losses, ties, both_answers;
    int64_t alone_a, alone_b; /* finished units without a partner */
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

static bool is_scored(const struct record *u)
{
    return u && u->status == ST_OK;
}

static int64_t count_scored(const struct side *x)
{
    int64_t n = 0;
    for (int64_t i = 0; i < x->r->n_example; i++)
        n += is_scored(summary_unit(x->s, x->setting, i));
    return n;
}

static void add_pair(struct pairs *p, int64_t n, const struct record *u, const struct record *v)
{
    p->a[n] = u->score, p->b[n] = v->score;
    p->wins += u->score > v->score, p->losses += u->score < v->score, p->ties += u->score == v->score;
    p->both_answers += u->text && v->text && record_same_text(u, v);
}

static void pair_up(const struct side *x, const struct side *y, struct pairs *p)
{
    const struct results *r = x->r;
    *p = (struct pairs){.a = mem_alloc((size_t)r->n_example, sizeof *p->a),
                        .b = mem_alloc((size_t)r->n_example, sizeof *p->b),
                        .at = mem_alloc((size_t)r->n_task + 1, sizeof *p->at),
                        .n_task = r->n_task};
    int *task_of = match_tasks(r, y->r);
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_example; i++) { /* ordered by task */
        int64_t k = partner(x, i, y, task_of);
        const struct record *u = summary_unit(x->s, x->setting, i);
        const struct record *v = k < 0 ? NULL : summary_unit(y->s, y->setting, k);
        if (is_scored(u) && is_scored(v)) {
            add_pair(p, n++, u, v);
            p->at[r->example[i].task + 1]++;
        }
    }
    for (int t = 0; t < r->n_task; t++)
        p->at[t + 1] += p->at[t];
    p->alone_a = count_scored(x) - n;
    p->alone_b = count_scored(y) - n;
    free(task_of);
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

static void print_row(const struct diff_args *a, struct str *out, const char *task, struct interval x,
                      struct interval y, struct interval d, bool first)
{
    if (!a->json) {
        str_printf(out, "%s\t%lld\t%.2f\t%.2f\t%+.2f\t[%+.2f, %+.2f]\n", task, (long long)d.n, 100 * x.mean,
                   100 * y.mean, 100 * d.mean, 100 * d.lo, 100 * d.hi);
        return;
    }
    str_add(out, first ? "{" : ", {");
    add_json_text(out, "task", task);
    str_printf(out, ", \"n\": %lld", (long long)d.n);
    add_json_real(out, "a", x.mean);
    add_json_real(out, "b", y.mean);
    add_json_real(out, "diff", d.mean);
    add_json_real(out, "lo", d.lo);
    add_json_real(out, "hi", d.hi);
    str_addc(out, '}');
}

static void print_rows(const struct diff_args *a, const struct side *x, const struct pairs *p,
                       struct str *out)
{
    bool first = true;
    for (int t = 0; t <= p->n_task; t++) {
        bool total = t == p->n_task;
        const int64_t *at = total ? p->at : p->at + t;
        int groups = total ? p->n_task : 1;
        if (at[groups] == at[0])
            continue;
        struct str label = {0};
        if (total)
            str_add(&label, "mean of tasks");
        else
            summary_task_label(x->r, t, &label);
        print_row(a, out, str_c(&label), stats_mean(p->a, at, groups), stats_mean(p->b, at, groups),
                  stats_paired(p->a, p->b, at, groups), first);
        first = false;
        str_free(&label);
    }
}

static void print(const struct diff_args *a, const struct side *x, const struct side *y,
                  const struct pairs *p)
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
        print_rows(a, x, p, &out);
        str_printf(&out,
                   "], \"better\": %lld, \"worse\": %lld, \"equal\": %lld, \"same_answer\": %lld, "
                   "\"unpaired_a\": %lld, \"unpaired_b\": %lld}\n",
                   better, worse, equal, same, (long long)p->alone_a, (long long)p->alone_b);
        fputs(out.data, stdout);
    } else {
        str_printf(&out, "task\tn\t%s\t%s\tdifference\t95 %%\n", ida, idb);
        print_rows(a, x, p, &out);
        app_table(stdout, out.data, "12345");
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
    struct pairs p;
    pair_up(x, y, &p);
    if (p.at[p.n_task] == 0)
        rc = err_set(ERR_INPUT, "the two settings have no finished example in common (the same task, "
                                "parameters, data and example)");
    else
        print(a, x, y, &p);
    free(p.a);
    free(p.b);
    free(p.at);
    return rc;
}

int cmd_diff(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"settings", 's', "X,Y", 0,
         "the two settings: ids of /settings, their last part, or the method as configurations write it", 0},
        {"json", 'j', 0, 0, "JSON instead of a table", 0},
        {0},
    };
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "A.h5 [B.h5]",
                                     .doc = "Compares X (of A.h5) with Y (of B.h5, or A.h5) on the same "
                                            "examples: paired differences with 95 % "
                                            "bootstrap intervals."};
    struct diff_args a = {0};
    app_parse(app, &argp, argc, argv, &a);
    struct results r[2] = {{0}};
    struct summary s[2] = {{0}};
    int rc = 0, last = a.n_path - 1;
    for (int i = 0; i <= last && rc == 0; i++) {
        rc = results_open(&r[i], a.path[i]);
        if (rc == 0)
            summary_make(&s[i], &r[i]);
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
