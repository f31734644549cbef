#include "hdf5io/build.h"
#include "hdf5io/keep.h"
#include "hdf5io/sink.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REBUILD_S     30.0 /* between two rebuilds at least */
#define REBUILD_SHARE 0.05 /* of the elapsed time that rebuilds may take */

/* What a model's logits look like; 0 until some were seen. */
struct shape_of {
    int32_t n_vocab, n_top;
};
struct sink {
    char *path, *dir;
    struct lock *lock;
    struct store store;
    struct journal journal;
    int source;              /* of this attempt in the store */
    struct book plan;        /* this attempt's */
    struct shape_of *shape;  /* [settings of the store] by setting */
    bool dirty;              /* something is not in FILE.h5 */
    bool whole;              /* FILE.h5 has the logits too */
    double t_built, s_built; /* when the last rebuild ended and how long it took, seconds */
    int failed;
    char *why;
};

static void free_sink(struct sink *s)
{
    journal_close(&s->journal);
    store_close(&s->store);
    book_free(&s->plan);
    lock_drop(s->lock);
    free(s->shape);
    free(s->path);
    free(s->dir);
    free(s->why);
    free(s);
}

/* After a failed write the run stops: nothing may be acknowledged that could be behind a hole. */
static int fail(struct sink *s, int rc)
{
    if (rc < 0 && !s->failed) {
        s->failed = rc;
        s->why = mem_strdup(err_text());
    }
    return rc;
}

static int failed(const struct sink *s)
{
    return s->failed ? err_set(s->failed, "%s", s->why) : 0;
}

/* ---- opening ---- */
static int copy_file(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC), out;
    unlink(to); /* of a run that was killed */
    out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    char *buf = mem_grow(NULL, 1 << 20, 1);
    ssize_t n = in < 0 || out < 0 ? -1 : 1;
    while (n > 0 && (n = read(in, buf, 1 << 20)) > 0)
        for (ssize_t at = 0, k; at < n; at += k)
            if ((k = write(out, buf + at, (size_t)(n - at))) < 0) {
                n = -1;
                break;
            }
    int rc = n < 0 || fsync(out) != 0
                 ? err_set(err_of_errno(errno), "cannot copy %s to %s: %s", from, to, strerror(errno))
                 : 0;
    free(buf);
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return rc;
}

/* FILE.h5 holds units that the journal has not (it is being extended): it stays as a part of the journal,
 * because rebuilds while running leave out logits. */
static int keep_base(const struct sink *s)
{
    char *base = NULL;
    for (int i = 0; !base || file_exists(base); i++) {
        free(base);
        base = mem_printf("%s/base.%d.h5", s->dir, i);
    }
    int rc = 0;
    if (link(s->path, base) != 0) { /* no hard links here: a copy, complete before it gets its name */
        char *part = mem_printf("%s/copying", s->dir);
        rc = copy_file(s->path, part);
        if (rc == 0 && rename(part, base) != 0)
            rc = err_set(ERR_IO, "cannot rename %s: %s", part, strerror(errno));
        free(part);
    }
    free(base);
    return rc;
}

static int see_shape(struct sink *s, int32_t setting, int32_t n_vocab, int32_t n_top)
{
    struct shape_of *h = &s->shape[setting];
    const struct sink_setting *row = &s->store.book.setting[setting];
    for (int i = 0; i < s->store.book.n_setting; i++) {
        const struct sink_setting *o = &s->store.book.setting[i];
        if (strcmp(o->model, row->model) != 0 || strcmp(o->model_hash, row->model_hash) != 0)
            continue;
        if ((n_vocab && s->shape[i].n_vocab && s->shape[i].n_vocab != n_vocab) ||
            (n_top && s->shape[i].n_top && s->shape[i].n_top != n_top))
            return err_set(ERR_INTERNAL, "logits of %s have %d values and %d best, before they had %d and %d",
                           row->id, n_vocab, n_top, s->shape[i].n_vocab, s->shape[i].n_top);
    }
    h->n_vocab = n_vocab ? n_vocab : h->n_vocab;
    h->n_top = n_top ? n_top : h->n_top;
    return 0;
}

static int load(struct sink *s, const struct sink_plan *plan, struct store_found *found)
{
    book_from_plan(&s->plan, plan);
    store_init(&s->store, &s->plan);
    if (plan->unit_id)
        store_plan_units(&s->store, plan->unit_id, plan->n_unit);
    s->store.poll = plan->poll;
    TRY(store_load(&s->store, s->path, &s->plan.run, found));
    s->plan.created = book_keep(&s->plan, s->store.book.created, strlen(s->store.book.created));
    s->shape = mem_alloc((size_t)s->store.book.n_setting, sizeof *s->shape);
    for (int64_t i = 0; i < s->store.n; i++) {
        const struct entry *e = &s->store.entry[i];
        struct shape_of *h = &s->shape[e->setting];
        h->n_vocab = e->n_vocab ? e->n_vocab : h->n_vocab;
        h->n_top = e->n_top ? e->n_top : h->n_top;
    }
    return 0;
}

/* The same bits are promised on one kind of device only. */
static void warn_of_mixture(const struct sink *s)
{
    const struct sink_run *had = &s->store.book.run, *now = &s->plan.run;
    if (!s->store.has_origin || store_done(&s->store) >= s->plan.n_unit ||
        (!strcmp(had->device, now->device) && !strcmp(had->isa, now->isa)))
        return;
    log_warn("%s: units that are there were computed on %s (%s), this run computes on %s (%s): the last bits "
             "may differ between them",
             s->path, had->device, had->isa, now->device, now->isa);
}

/* A results file that was removed does not take its units with it. */
static void say_taken_over(const struct sink *s, const struct store_found *found)
{
    if (!found->file && !found->bad_file && s->store.n)
        log_warn("%s is not there, but %s holds %lld finished units: they are taken over (remove that folder "
                 "too to "
                 "begin anew)",
                 s->path, s->dir, (long long)s->store.n);
}

static int sink_open(struct sink **out, const char *path, const struct sink_plan *plan)
{
    struct store_found found = {0};
    struct sink *s = mem_alloc(1, sizeof *s);
    *s = (struct sink){.path = file_resolve(path), .dir = journal_dir(path), .t_built = clock_now()};
    s->journal.fd = s->journal.fd_big = -1;
    bool had_journal = file_is_dir(s->dir);
    int rc;
    *out = NULL;
    TRY_GOTO(lock_take(&s->lock, s->dir, plan->s_wait, &plan->poll), done);
    journal_clean(s->dir);
    file_temp_clean(s->path);
    TRY_GOTO(load(s, plan, &found), done);
    warn_of_mixture(s);
    say_taken_over(s, &found);
    if (found.bad_file)
        TRY_GOTO(keep_damaged(s->path), done);
    if (found.adds)
        TRY_GOTO(keep_base(s), done);
    TRY_GOTO(journal_open(&s->journal, s->dir, &s->plan), done);
    TRY_GOTO(s->source = store_add_attempt(&s->store, &s->journal, &s->plan), done);
    s->dirty = !found.current;
    s->whole = found.current;
    *out = s;
    return 0;
done:
    if (!had_journal && s->lock)
        (void)!journal_remove(s->dir); /* nothing but our lock; the error to tell is the first one */
    free_sink(s);
    return rc;
}

/* ---- use ---- */
static bool sink_has(const struct sink *s, uint64_t hi, uint64_t lo)
{
    return store_has(&s->store, hi, lo);
}

static int sink_attempt(const struct sink *s)
{
    return s->journal.attempt;
}

/* Whether the records are of this plan, with logits as their model has them. */
static int check_records(struct sink *s, const struct record *r, int n, uint64_t n_big)
{
    uint64_t big = 0;
    for (int i = 0; i < n; i++) {
        if (r[i].setting < 0 || r[i].setting >= s->plan.n_setting || r[i].task < 0 ||
            r[i].task >= s->plan.n_task)
            return err_set(ERR_INTERNAL, "a record of setting %d, task %d is not of this plan", r[i].setting,
                           r[i].task);
        TRY(see_shape(s, r[i].setting, r[i].n_first ? r[i].n_vocab : 0, r[i].n_new ? r[i].n_top : 0));
        big += record_big_bytes(&r[i], NULL);
    }
    return big == n_big ? 0 : err_set(ERR_INPUT, "packed records and their logits disagree in size");
}

static int check_bundle(struct sink *s, const struct sink_bundle *b)
{
    struct record *r;
    int n;
    TRY(record_unpack(b->small, b->n_small, NULL, 0, &r, &n));
    int rc = check_records(s, r, n, b->n_big);
    for (int i = 0; i < n; i++)
        record_free(&r[i]);
    free(r);
    return rc;
}

/* One journal entry that is queued but not yet on disk. */
struct pending {
    struct journal_head head;
    uint64_t at;
};

static int put_bundles(struct sink *s, const struct sink_bundle *b, int n, struct pending *p)
{
    for (int i = 0; i < n; i++)
        TRY(check_bundle(s, &b[i]));
    for (int i = 0; i < n; i++)
        TRY(journal_add(&s->journal, JOURNAL_RECORDS, b[i].small, b[i].n_small, b[i].big, b[i].n_big,
                        &p[i].head, &p[i].at));
    TRY(journal_commit(&s->journal));
    for (int i = 0; i < n; i++)
        TRY(store_index(&s->store, s->source, &p[i].head, b[i].small, p[i].at));
    s->dirty = true;
    return 0;
}

static int sink_put(struct sink *s, const struct sink_bundle *b, int n)
{
    TRY(failed(s));
    if (n == 0)
        return 0;
    TRY(fail(s, lock_check(s->lock)));
    struct pending *p = mem_alloc((size_t)n, sizeof *p);
    int rc = fail(s, put_bundles(s, b, n, p));
    free(p);
    return rc;
}

static bool knows_weights(const struct book *b, const char *model_hash, const char *xxh3)
{
    for (int i = 0; i < b->n_setting; i++)
        if (!strcmp(b->setting[i].model_hash, model_hash) && strcmp(b->setting[i].weights_xxh3, xxh3) != 0)
            return false;
    return true;
}

static int sink_put_weights(struct sink *s, const char *model_hash, const char *xxh3)
{
    struct journal_head head;
    uint64_t at;
    TRY(failed(s));
    if (knows_weights(&s->store.book, model_hash, xxh3))
        return 0;
    int rc = book_weights(&s->store.book, model_hash, xxh3);
    if (rc < 0)
        return err_prefix(rc, "%s", s->path);
    char *text = mem_printf("%s %s", model_hash, xxh3);
    rc = journal_add(&s->journal, JOURNAL_WEIGHTS, text, strlen(text), NULL, 0, &head, &at);
    free(text);
    if (rc == 0)
        rc = journal_commit(&s->journal);
    s->dirty = true;
    return fail(s, rc);
}

static int sink_put_timing(struct sink *s, const struct sink_timing *t, int n)
{
    struct journal_head head;
    uint64_t at;
    TRY(failed(s));
    int rc = journal_add(&s->journal, JOURNAL_TIMING, t, (size_t)n * sizeof *t, NULL, 0, &head, &at);
    if (rc == 0)
        rc = journal_commit(&s->journal);
    if (rc == 0)
        store_credit(&s->store, s->source);
    for (int i = 0; i < n && rc == 0; i++)
        store_add_timing(&s->store, &t[i], true);
    s->dirty = true;
    return fail(s, rc);
}

static int rebuild(struct sink *s, bool whole)
{
    double t0 = clock_now();
    int64_t n_lost = 0;
    int rc = build_file(&s->store, s->path, whole, 0, store_units(&s->store), s->lock, &n_lost);
    s->t_built = clock_now();
    s->s_built = s->t_built - t0;
    if (rc == 0 && n_lost)
        rc = err_set(ERR_AGAIN,
                     "%s: the logits of %lld units have been damaged in the journal since they were written: "
                     "the same command computes them again",
                     s->path, (long long)n_lost);
    if (rc == 0) {
        s->dirty = false;
        s->whole = whole;
    }
    /* Somebody writes the file, or has put into it what cannot be copied: the journal has our part of it. */
    if (rc == ERR_INPUT && !whole) {
        log_warn("%s; it will be renewed later", err_text());
        return 0;
    }
    if (rc == ERR_INPUT)
        rc = err_prefix(ERR_AGAIN, "all units are in the journal, the same command goes on");
    return fail(s, rc);
}

static int sink_refresh(struct sink *s, bool now, bool final)
{
    TRY(failed(s));
    if (!s->dirty && (!final || s->whole))
        return 0;
    double waited = clock_now() - s->t_built;
    if (!now && !final && (waited < REBUILD_S || s->s_built > REBUILD_SHARE * waited))
        return 0;
    return rebuild(s, final);
}

static int sink_close(struct sink *s)
{
    if (!s)
        return 0;
    int rc = failed(s);
    bool complete = rc == 0 && store_done(&s->store) >= s->plan.n_unit;
    if (rc == 0)
        rc = sink_refresh(s, true, complete);
    if (rc == 0 && complete)
        rc = lock_check(s->lock);
    if (rc == 0 && complete)
        rc = s->store.damaged ? journal_keep(s->dir) : journal_remove(s->dir);
    free_sink(s);
    return rc;
}

const struct sink_type sink_hdf5 = {.name = "hdf5",
                                    .open = sink_open,
                                    .has = sink_has,
                                    .put = sink_put,
                                    .put_weights = sink_put_weights,
                                    .put_timing = sink_put_timing,
                                    .refresh = sink_refresh,
                                    .close = sink_close,
                                    .attempt = sink_attempt};
