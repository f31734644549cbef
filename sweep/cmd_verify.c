/* Recomputes bundles of a results file: same units, same batch, so every token must come out again. */
#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/read.h"
#include "sweep/app.h"
#include "sweep/worker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct verify_args {
    struct app_config config;
    const char *path;
    int64_t n_bundle;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct verify_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->config;
        return 0;
    case 'n':
        if (str_to_int(arg, &a->n_bundle) && a->n_bundle >= 1)
            return 0;
        fprintf(stderr, "%s: --bundles=%s is not allowed; use a whole number from 1\n", state->name, arg);
        exit(1);
    case 'c':
        a->config.path = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (a->path) { /* not left to argp: it would become the configuration */
            fprintf(stderr, "%s: '%s' is one argument too many: one file at a time\n", state->name, arg);
            exit(1);
        }
        a->path = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->path)
            return 0;
        fprintf(stderr, "%s: which results file?\n", state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The configuration inside the file, with the path and the --set values that its last lines keep. */
static int open_config(struct app *app, const struct verify_args *a, const struct results *r,
                       struct config *c)
{
    static const char mark[] = "# --set ", file[] = "# file ";
    struct app_config with = a->config;
    if (with.path)
        return app_config_open(app, c, &with);
    struct config_source s = app_source(app);
    char **set = NULL, *copy = mem_strdup(r->config_yaml ? r->config_yaml : ""), *save = NULL;
    int n = 0, cap = 0;
    s.path = a->path;
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (!strncmp(line, mark, sizeof mark - 1))
            *MEM_PUSH(set, n, cap) = line + sizeof mark - 1;
        else if (!strncmp(line, file, sizeof file - 1))
            s.path = line + sizeof file - 1; /* what ${here} and model ids refer to */
    }
    for (int i = 0; i < with.n_set; i++)
        *MEM_PUSH(set, n, cap) = with.set[i];
    s.text = r->config_yaml ? r->config_yaml : "";
    s.set = set;
    s.n_set = n;
    int rc = config_open(c, &s);
    free(set);
    free(copy);
    return rc;
}

/* Units and records of one bundle of the file, in the plan's order. */
struct check {
    struct job job;
    const struct record *want[PLAN_BATCH];
};

static const struct record *record_of(const struct results *r, const struct plan_unit *u)
{
    for (int64_t i = 0; i < r->n_record; i++)
        if (r->record[i].unit_hi == u->hi && r->record[i].unit_lo == u->lo)
            return &r->record[i];
    return NULL;
}

/* False if the plan does not hold exactly these units any more. */
static bool find_bundle(const struct plan *p, const struct results *r, uint64_t bundle, struct check *c)
{
    *c = (struct check){.job = {.id = bundle}};
    for (int64_t i = 0; i < p->n_unit; i++) {
        const struct record *rec = record_of(r, &p->unit[i]);
        if (!rec || rec->bundle != bundle)
            continue;
        if (c->job.n == PLAN_BATCH)
            return false;
        c->want[c->job.n] = rec;
        c->job.unit[c->job.n++] = i;
        c->job.task = p->unit[i].task;
        c->job.model = p->setting[p->unit[i].setting].model;
    }
    return c->job.n > 0 && plan_bundle_id(p, c->job.unit, c->job.n) == bundle;
}

static int compare(const struct plan *p, const struct check *c, int i, const struct record *got)
{
    const struct record *want = c->want[i];
    const struct plan_unit *u = &p->unit[c->job.unit[i]];
    const char *what =
        want->status != got->status             ? "status"
        : want->prompt_hash != got->prompt_hash ? "prompt"
        : want->n_new != got->n_new ||
                (got->n_new > 0 && memcmp(want->token, got->token, (size_t)got->n_new * sizeof *got->token))
            ? "tokens"
        : !record_same_text(want, got)                                            ? "text"
        : want->score != got->score && !(isnan(want->score) && isnan(got->score)) ? "score"
        : want->kv_bytes_alone != got->kv_bytes_alone                             ? "kv_bytes_alone"
                                                                                  : NULL;
    if (!what)
        return 0;
    return err_set(ERR_INPUT, "%s of setting %s, task %s, example %s differs", what,
                   p->setting[u->setting].id, p->task[u->task].cfg->id,
                   plan_example(p, u->task, u->example)->id);
}

static int check_bundle(struct worker *w, const struct check *c)
{
    struct record got[PLAN_BATCH] = {0};
    TRY(worker_run(w, &c->job, got));
    int rc = 0;
    for (int i = 0; i < c->job.n; i++) {
        if (rc == 0)
            rc = compare(w->plan, c, i, &got[i]);
        record_free(&got[i]);
    }
    return rc;
}

static uint64_t *bundle_ids(const struct results *r, int *n)
{
    uint64_t *ids = mem_alloc((size_t)r->n_record + 1, sizeof *ids);
    *n = 0;
    for (int64_t i = 0; i < r->n_record; i++) {
        bool seen = false;
        for (int k = 0; k < *n; k++)
            seen = seen || ids[k] == r->record[i].bundle;
        if (!seen)
            ids[(*n)++] = r->record[i].bundle;
    }
    return ids;
}

static int verify(const struct plan *p, const struct results *r, int64_t n_asked)
{
    struct link l;
    struct worker w;
    int n = 0, n_checked = 0, n_other = 0;
    if (!r->n_record)
        return err_set(ERR_INPUT, "%s: nothing is finished yet that could be computed again", r->path);
    TRY(link_open(&l, false, "", NULL));
    TRY(worker_open(&w, &l, p, NULL, NULL));
    link_close(&l);
    const struct ops *ops = runner_ops(w.runner);
    const bool other = *r->isa && (strcmp(ops->isa, r->isa) || strcmp(ops->device, r->device));
    uint64_t *ids = bundle_ids(r, &n);
    int64_t n_take = n_asked > 0 && n_asked < n ? n_asked : n;
    int rc = 0;
    for (int64_t i = 0; i < n_take && rc == 0; i++) {
        struct check c;
        if (!find_bundle(p, r, ids[i * n / n_take], &c)) {
            n_other++;
            continue;
        }
        n_checked++;
        rc = check_bundle(&w, &c);
    }
    free(ids);
    if (rc < 0 && other)
        rc = err_prefix(rc, "computed on %s (%s), here on %s (%s), so that the last bits may differ",
                        r->device, r->isa, ops->device, ops->isa);
    worker_close(&w);
    if (rc == 0 && n_checked == 0)
        return err_set(ERR_INPUT, "%s: none of its bundles belongs to this configuration and these files",
                       r->path);
    if (rc == 0)
        printf("%d of %d bundles recomputed, all equal%s\n", n_checked, n,
               n_other ? "; others do not belong to this configuration" : "");
    return rc;
}

int cmd_verify(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"bundles", 'n', "N", 0, "this many, spread over the file (default: all)", 0},
        {"config", 'c', "CONFIG", 0, "configuration (default: the one inside the file)", 0},
        {0}};
    static const struct argp_child children[] = {{&app_config_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "FILE.h5",
                                     .doc = "Recomputes bundles of a results file and compares status, "
                                            "prompt, tokens, text, score and bytes.",
                                     .children = children};
    struct verify_args a = {0};
    struct results r;
    struct config c = {0};
    struct plan p = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = results_open(&r, a.path);
    if (rc == 0) {
        rc = open_config(app, &a, &r, &c);
        if (rc == 0)
            rc = plan_open(&p, &c);
        if (rc == 0)
            rc = verify(&p, &r, a.n_bundle);
        plan_close(&p);
        config_close(&c);
        results_close(&r);
    }
    app_config_free(&a.config);
    return rc;
}
