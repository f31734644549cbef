/* Building whole files apart from a run: pack and merge. */
#include "hdf5io/build.h"
#include "hdf5io/keep.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int load_one(struct store *s, const char *path, struct store_found *found)
{
    TRY(store_load(s, path, NULL, found));
    if (!found->file && !found->journal)
        return err_set(ERR_INPUT, "there are no results at %s (neither the file nor %s.journal)", path, path);
    if (!s->book.created)
        return err_set(ERR_INPUT, "%s.journal holds nothing readable and there is no %s", path, path);
    return 0;
}

int sink_pack(const char *path, int deflate)
{
    struct store s;
    struct store_found found;
    char *dir = journal_dir(path);
    int64_t n_lost = 0;
    int rc;
    struct lock *lock = NULL, *other = NULL;
    if (deflate < 0 || deflate > 9) {
        free(dir);
        return err_set(ERR_INPUT, "deflate is %d: allowed are 0 (off) to 9", deflate);
    }
    store_init(&s, NULL);
    /* The journal may only go if nobody writes it; packing beside a running job is fine. */
    rc = file_is_dir(dir) ? lock_take(&lock, dir, 0, NULL) : 0;
    if (rc == ERR_INPUT) /* a link, planted there */
        goto done;
    if (rc < 0)
        lock_follow(&other, dir); /* when that run ends meanwhile, its file is the newer one */
    TRY_GOTO(load_one(&s, path, &found), done);
    if (found.bad_file)
        TRY_GOTO(keep_damaged(path), done);
    TRY_GOTO(build_file(&s, path, true, deflate, store_units(&s), lock ? lock : other, &n_lost), done);
    if (n_lost)
        log_warn(
            "%s: the logits of %lld units are damaged in the journal, which stays: the run computes them "
            "again",
            path, (long long)n_lost);
    else if (lock && store_done(&s) >= s.book.n_unit)
        rc = s.damaged ? journal_keep(dir) : journal_remove(dir);
done:
    store_close(&s);
    lock_drop(lock);
    lock_drop(other);
    free(dir);
    return rc;
}

struct counts {
    int64_t n, n_unit, n_example;
    int n_setting, n_task, version;
    char *mode;
};

static int count_one(const char *path, struct counts *c)
{
    struct store s;
    struct store_found found;
    store_init(&s, NULL);
    int rc = load_one(&s, path, &found);
    if (rc == 0)
        *c = (struct counts){s.n,           store_units(&s), s.book.n_example,           s.book.n_setting,
                             s.book.n_task, s.book.version,  mem_strdup(s.book.run.mode)};
    store_close(&s);
    return rc;
}

/* Units of the union: parts of one grid all state its size; otherwise what is there and what each still
 * lacks. */
static int64_t merged_units(const struct store *s, const struct counts *c, int n)
{
    bool one_grid = true;
    int64_t lacking = 0;
    for (int i = 0; i < n; i++) {
        one_grid = one_grid && c[i].n_unit == c[0].n_unit && c[i].n_setting == s->book.n_setting &&
                   c[i].n_task == s->book.n_task && c[i].n_example == s->book.n_example;
        lacking += c[i].n_unit > c[i].n ? c[i].n_unit - c[i].n : 0;
    }
    return one_grid ? c[0].n_unit : s->n + lacking;
}

/* Where files disagree on a unit, it is their owner's to say which is right. */
static int refuse_conflicts(const struct store *s)
{
    const struct store_conflict *c = &s->conflict;
    const char *setting = s->book.setting[c->setting].id, *task = s->book.task[c->task].id;
    if (!c->n)
        return 0;
    return err_set(ERR_INPUT,
                   "the files disagree on %lld unit%s (the first: setting %s, task %s, example %d): "
                   "--keep-first takes those of the file named first",
                   (long long)c->n, c->n == 1 ? "" : "s", setting, task, c->example);
}

int sink_merge(const char *const *paths, int n, const char *out, bool keep_first)
{
    struct store s;
    struct store_found found;
    char *dir = journal_dir(out);
    bool taken = file_exists(out) || file_exists(dir);
    free(dir);
    if (n < 1)
        return err_set(ERR_INPUT, "nothing to merge");
    if (taken)
        return err_set(ERR_INPUT, "%s exists already: choose another name for the merged file", out);
    struct counts *c = mem_alloc((size_t)n, sizeof *c);
    int rc;
    store_init(&s, NULL);
    for (int i = 0; i < n; i++) {
        TRY_GOTO(count_one(paths[i], &c[i]), done);
        if (c[i].version != SCHEMA_VERSION) {
            rc = err_set(
                ERR_INPUT,
                "%s is of schema version %d, in which unit ids meant something else: it cannot be merged",
                paths[i], c[i].version);
            goto done;
        }
        if (strcmp(c[i].mode, c[0].mode) != 0) {
            rc = err_set(ERR_INPUT, "%s was made in mode %s, %s in mode %s: they cannot be merged", paths[0],
                         c[0].mode, paths[i], c[i].mode);
            goto done;
        }
        TRY_GOTO(load_one(&s, paths[i], &found), done);
    }
    if (keep_first && s.conflict.n)
        log_warn("the files disagree on %lld unit%s: those of the file named first are kept",
                 (long long)s.conflict.n, s.conflict.n == 1 ? "" : "s");
    else
        TRY_GOTO(refuse_conflicts(&s), done);
    int64_t n_lost = 0;
    rc = build_file(&s, out, true, 0, merged_units(&s, c, n), NULL, &n_lost);
    if (rc == 0 && n_lost)
        log_warn("%s: the logits of %lld units are damaged in the journals: a run computes them again", out,
                 (long long)n_lost);
done:
    for (int i = 0; i < n; i++)
        free(c[i].mode);
    free(c);
    store_close(&s);
    return rc;
}
