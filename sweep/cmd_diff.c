/* Paired comparison of settings, in one results file or across two: the same examples under both. */
#include "base/err.h"
#include "base/mem.h"
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

/* How many settings have this id or this end of one ("kivi:bits=2"), and one of them. */
static int count_settings(const struct results *r, const char *name, int *row)
{
    int hits = 0;
    size_t n = strlen(name);
    for (int i = 0; i < r->n_setting; i++) {
        const char *id = r->setting[i].id;
        size_t m = strlen(id);
        if (!strcmp(id, name)) {
            *row = i;
            return 1;
        }
        if (m > n && !strcmp(id + m - n, name) && id[m - n - 1] == '/') {
            *row = i;
            hits++;
        }
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
        return err_set(ERR_INPUT, "%s: setting '%s' names %d rows; write MODEL/%s", r->path, name, hits,
                       name);
    const char *near = str_nearest(name, ids);
    return err_set(ERR_INPUT, "%s: no setting '%s'%s%s", r->path, name, near ? "; nearest: " : "",
                   near ? near : "");
}

/* One side of the comparison. */
struct side {
    struct results r;
    struct summary s;
    int setting;
};

/* Scores of the examples that both sides have, grouped by task id; n_task + 1 ends in at[]. */
struct pairs {
    double *a, *b;
    int64_t *at;
    int n_task;
    int64_t wins, losses, ties, both_answers;
};

static int64_t find_example(const struct results *r, const char *task, const char *example)
{
    for (int64_t i = 0; i < r->n_example; i++)
        if (!strcmp(r->example[i].id, example) && !strcmp(r->task[r->example[i].task].id, task))
            return i;
    return -1;
}

static void pair_up(const struct side *x, const struct side *y, struct pairs *p)
{
    const struct results *r = &x->r;
    *p = (struct pairs){.a = mem_alloc((size_t)r->n_example, sizeof *p->a),
                        .b = mem_alloc((size_t)r->n_example, sizeof *p->b),
                        .at = mem_alloc((size_t)r->n_task + 1, sizeof *p->at),
                        .n_task = r->n_task};
    int64_t n = 0;
    for (int t = 0; t < r->n_task; t++) {
        for (int64_t i = 0; i < r->n_example; i++) {
            if (r->example[i].task != t)
                continue;
            int64_t k = &x->r == &y->r ? i : find_example(&y->r, r->task[t].id, r->example[i].id);
            const struct record *u = summary_unit(&x->s, x->setting, i);
            const struct record *v = k < 0 ? NULL : summary_unit(&y->s, y->setting, k);
            if (!u || !v || u->status != ST_OK || v->status != ST_OK)
                continue;
            p->a[n] = u->score, p->b[n] = v->score;
            p->wins += u->score > v->score, p->losses += u->score < v->score, p->ties += u->score == v->score;
            p->both_answers += u->text && v->text && !strcmp(u->text, v->text);
            n++;
        }
        p->at[t + 1] = n;
    }
}

static void print_row(const struct diff_args *a, struct str *out, const char *task, struct interval x,
                      struct interval y, struct interval d, bool first)
{
    if (a->json)
        str_printf(out,
                   "%s{\"task\": \"%s\", \"n\": %lld, \"a\": %.17g, \"b\": %.17g, \"diff\": %.17g, \"lo\": "
                   "%.17g, \"hi\": %.17g}",
                   first ? "" : ", ", task, (long long)d.n, x.mean, y.mean, d.mean, d.lo, d.hi);
    else
        str_printf(out, "%s\t%lld\t%.2f\t%.2f\t%+.2f\t[%+.2f, %+.2f]\n", task, (long long)d.n, 100 * x.mean,
                   100 * y.mean, 100 * d.mean, 100 * d.lo, 100 * d.hi);
}

static void print(const struct diff_args *a, const struct side *x, const struct side *y,
                  const struct pairs *p)
{
    struct str out = {0};
    const char *ida = x->r.setting[x->setting].id, *idb = y->r.setting[y->setting].id;
    if (a->json) {
        str_add(&out, "{\"a\": ");
        str_add_json(&out, ida, strlen(ida));
        str_add(&out, ", \"b\": ");
        str_add_json(&out, idb, strlen(idb));
        str_add(&out, ", \"tasks\": [");
    } else {
        str_printf(&out, "task\tn\t%s\t%s\tdifference\t95 %%\n", ida, idb);
    }
    bool first = true;
    for (int t = 0; t <= p->n_task; t++) {
        bool total = t == p->n_task;
        const int64_t *at = total ? p->at : p->at + t;
        int groups = total ? p->n_task : 1;
        if (at[groups] == at[0])
            continue;
        print_row(a, &out, total ? "mean of tasks" : x->r.task[t].id, stats_mean(p->a, at, groups),
                  stats_mean(p->b, at, groups), stats_paired(p->a, p->b, at, groups), first);
        first = false;
    }
    if (a->json) {
        str_printf(&out, "], \"better\": %lld, \"worse\": %lld, \"equal\": %lld, \"same_answer\": %lld}\n",
                   (long long)p->wins, (long long)p->losses, (long long)p->ties, (long long)p->both_answers);
        fputs(out.data, stdout);
    } else {
        app_table(stdout, out.data, "12345");
        printf("first better on %lld, worse on %lld, equal on %lld examples; same answer on %lld\n",
               (long long)p->wins, (long long)p->losses, (long long)p->ties, (long long)p->both_answers);
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
        rc = find_setting(&x->r, names, &x->setting);
        if (rc == 0)
            rc = find_setting(&y->r, comma + 1, &y->setting);
        *comma = ',';
    }
    if (rc < 0 && !strchr(names, ','))
        rc = err_set(ERR_INPUT, "--settings takes two names, X,Y");
    free(names);
    TRY(rc);
    struct pairs p;
    pair_up(x, y, &p);
    if (p.at[p.n_task] == 0)
        rc = err_set(ERR_INPUT, "the two settings have no finished example in common");
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
    struct side x = {0}, y = {0};
    TRY(results_open(&x.r, a.path[0]));
    summary_make(&x.s, &x.r);
    int rc = a.n_path == 2 ? results_open(&y.r, a.path[1]) : 0;
    if (rc == 0 && a.n_path == 2) {
        summary_make(&y.s, &y.r);
        rc = compare(&a, &x, &y);
        summary_free(&y.s);
        results_close(&y.r);
    } else if (rc == 0) {
        struct side same = x; /* two settings of one file */
        rc = compare(&a, &x, &same);
    }
    summary_free(&x.s);
    results_close(&x.r);
    return rc;
}
