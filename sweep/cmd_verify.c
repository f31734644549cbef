/* Recomputes bundles of a results file: same units, same batch, so every token must come out again. */
#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/book.h"
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

static int by_id(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    if (x->unit_hi != y->unit_hi)
        return x->unit_hi < y->unit_hi ? -1 : 1;
    return x->unit_lo < y->unit_lo ? -1 : x->unit_lo > y->unit_lo;
}

/* Records of the file that the plan has too, by bundle, then in the plan's order. */
struct place {
    uint64_t bundle;
    int64_t unit;
    const struct record *rec;
};
struct places {
    struct place *at;
    int64_t n;
};

static int by_bundle(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->bundle != y->bundle)
        return x->bundle < y->bundle ? -1 : 1;
    return x->unit < y->unit ? -1 : x->unit > y->unit;
}

static void find_places(const struct plan *p, const struct results *r, struct places *s)
{
    *s = (struct places){mem_alloc((size_t)p->n_unit + 1, sizeof *s->at), 0};
    for (int64_t i = 0; i < p->n_unit; i++) {
        const struct record key = {.unit_hi = p->unit[i].hi, .unit_lo = p->unit[i].lo};
        const struct record *rec = bsearch(&key, r->record, (size_t)r->n_record, sizeof key, by_id);
        if (rec)
            s->at[s->n++] = (struct place){rec->bundle, i, rec};
    }
    qsort(s->at, (size_t)s->n, sizeof *s->at, by_bundle);
}

/* The first place of a bundle, or where it would be. */
static int64_t first_place(const struct places *s, uint64_t bundle)
{
    int64_t lo = 0, hi = s->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (s->at[mid].bundle < bundle)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* False if the plan does not hold exactly these units any more. */
static bool find_bundle(const struct plan *p, const struct places *s, uint64_t bundle, struct check *c)
{
    *c = (struct check){.job = {.id = bundle}};
    for (int64_t k = first_place(s, bundle); k < s->n && s->at[k].bundle == bundle; k++) {
        const struct plan_unit *u = &p->unit[s->at[k].unit];
        if (c->job.n == PLAN_BATCH)
            return false;
        c->want[c->job.n] = s->at[k].rec;
        c->job.unit[c->job.n++] = s->at[k].unit;
        c->job.task = u->task;
        c->job.model = p->setting[u->setting].model;
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

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* All bundles of the file, each once. Owned. */
static uint64_t *bundle_ids(const struct results *r, int64_t *n)
{
    uint64_t *ids = mem_alloc((size_t)r->n_record + 1, sizeof *ids);
    *n = 0;
    for (int64_t i = 0; i < r->n_record; i++)
        ids[i] = r->record[i].bundle;
    qsort(ids, (size_t)r->n_record, sizeof *ids, by_value);
    for (int64_t i = 0; i < r->n_record; i++)
        if (!i || ids[i] != ids[i - 1])
            ids[(*n)++] = ids[i];
    return ids;
}

static int verify(const struct plan *p, const struct results *r, int64_t n_asked)
{
    struct link l;
    struct worker w;
    struct places places;
    int64_t n = 0, n_checked = 0, n_other = 0;
    if (!r->n_record)
        return err_set(ERR_INPUT, "%s: nothing is finished yet that could be computed again", r->path);
    TRY(link_open(&l, false, "", NULL));
    TRY(worker_open(&w, &l, p, NULL, NULL));
    link_close(&l);
    const struct ops *ops = runner_ops(w.runner);
    const bool other = *r->isa && (strcmp(ops->isa, r->isa) || strcmp(ops->device, r->device));
    uint64_t *ids = bundle_ids(r, &n);
    find_places(p, r, &places);
    int64_t n_take = n_asked > 0 && n_asked < n ? n_asked : n;
    int rc = 0;
    for (int64_t i = 0; i < n_take && rc == 0; i++) {
        struct check c;
        if (!find_bundle(p, &places, ids[i * n / n_take], &c)) {
            n_other++;
            continue;
        }
        n_checked++;
        rc = check_bundle(&w, &c);
    }
    free(ids);
    free(places.at);
    if (rc < 0 && other)
        rc = err_prefix(rc, "computed on %s (%s), here on %s (%s), so that the last bits may differ",
                        r->device, r->isa, ops->device, ops->isa);
    worker_close(&w);
    if (rc == 0 && n_checked == 0)
        return err_set(ERR_INPUT, "%s: none of its bundles belongs to this configuration and these files",
                       r->path);
    if (rc == 0)
        printf("%lld of %lld bundles recomputed, all equal%s\n", (long long)n_checked, (long long)n,
               n_other ? "; others do not belong to this configuration" : "");
    return rc;
}

static int check_version(const struct results *r)
{
    return r->schema_version == SCHEMA_VERSION
               ? 0
               : err_set(
                     ERR_INPUT,
                     "%s is of schema version %d, in which unit ids meant something else: the program that "
                     "wrote it can verify it",
                     r->path, r->schema_version);
}

int cmd_verify(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"bundles", 'n', "N", 0, "this many, spread over the file (default: all)", 0},
        {"config", 'c', "CONFIG", 0, "configuration (default: the one inside the file)", 0},
        {0}};
    static const struct argp_child children[] = {{&app_config_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "FILE.h5",
        .doc = "Checks every checksum of a results file, then recomputes bundles and "
               "compares status, prompt, tokens, text, score and bytes.",
        .children = children};
    struct verify_args a = {0};
    struct results r;
    struct config c = {0};
    struct plan p = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = results_open(&r, a.path);
    if (rc == 0) {
        rc = check_version(&r);
        if (rc == 0)
            rc = results_check_logits(a.path);
        if (rc == 0)
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
