/* Loading a store: the attempts of a journal and the files are opened, their books joined, their units
 * indexed. */
#include "hdf5io/store_int.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct source *push_source(struct store *s, const char *path)
{
    struct source *c = MEM_PUSH(s->source, s->n_source, s->cap_source);
    *c = (struct source){.path = mem_strdup(path), .fd = -1, .fd_big = -1};
    return c;
}

static int first_entry(void *ctx, const struct journal_head *h, const void *payload, uint64_t at)
{
    (void)at;
    if (h->kind != JOURNAL_PLAN)
        return err_set(ERR_INPUT, "the first entry is not a plan");
    if (book_is_older(payload, h->n_small))
        return 2;
    TRY(book_unpack(ctx, payload, h->n_small));
    return 1; /* enough */
}

/* Opens an attempt and reads its plan. One without a readable plan is left out: a process that died while it
 * made the file acknowledged nothing. So is one that is gone: the run has just finished, and all is in
 * FILE.h5. */
static int open_attempt(struct store *s, const char *path, bool check_big)
{
    struct book plan = {0};
    struct journal_rest rest;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : err_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int rc = journal_scan(fd, path, first_entry, &plan, &rest);
    if (rc <= 0 || rc == 2) {
        close(fd);
        s->old_journal = s->old_journal || rc == 2;
        if (rc == 2)
            return 0;
        if (rc == 0 && rest.bytes)
            log_warn("%s is damaged at its head (%llu bytes): left out", path,
                     (unsigned long long)rest.bytes);
        s->damaged = s->damaged || rest.damaged;
        return rc < 0 ? err_prefix(rc, "%s", path) : 0;
    }
    struct source *c = push_source(s, path);
    char *big = mem_printf("%s.big", path);
    c->book = plan;
    c->fd = fd;
    c->fd_big = open(big, O_RDONLY | O_CLOEXEC);
    c->check_big = check_big;
    free(big);
    return 0;
}

static int open_h5(struct store *s, const char *path, bool check_big)
{
    struct source *c = push_source(s, path);
    c->h5 = mem_alloc(1, sizeof *c->h5);
    int rc = h5file_open(c->h5, path);
    if (rc == 0 && check_big)
        rc = h5file_check_logits(c->h5);
    if (rc < 0 && !file_exists(path)) { /* a base file that went with its journal */
        store_close_source(c);
        s->n_source--;
        rc = 0;
    }
    return rc;
}

static int open_folder(struct store *s, const char *dir, bool check_big)
{
    char **names;
    int n, rc;
    TRY(journal_list(dir, &names, &n));
    rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        char *p = file_join(dir, names[i]);
        rc = open_attempt(s, p, check_big);
        free(p);
    }
    file_list_free(names, n);
    for (int i = 0; rc == 0; i++) {
        char *p = mem_printf("%s/base.%d.h5", dir, i);
        bool there = file_exists(p);
        if (there)
            rc = open_h5(s, p, check_big);
        free(p);
        if (!there)
            break;
    }
    return rc;
}

/* Joins the books of the sources from `first` on: newest attempt first, so that the plan in force keeps its
 * numbers, then files. */
static int join_books(struct store *s, int first)
{
    int n_attempt = first;
    while (n_attempt < s->n_source && !s->source[n_attempt].h5)
        n_attempt++;
    for (int k = first; k < s->n_source; k++) {
        struct source *c = &s->source[k < n_attempt ? n_attempt - 1 - (k - first) : k];
        bool newest = s->book.created == NULL;
        int rc = book_join(&s->book, source_book(c), &c->setting_map, &c->task_map);
        if (rc < 0)
            return err_prefix(rc, "%s", c->path);
        if (newest)
            store_set_base(s, source_book(c));
    }
    return 0;
}

/* "HASH XXH3" */
static int take_weights(struct store *s, const void *payload, size_t n)
{
    char *text = mem_strndup(payload, n), *space = strchr(text, ' ');
    int rc = space ? 0 : err_set(ERR_INPUT, "an entry about weights is damaged");
    if (space) {
        *space = 0;
        rc = book_weights(&s->book, text, space + 1);
    }
    free(text);
    return rc;
}

struct scan {
    struct store *s;
    int source;
};

static int scan_entry(void *ctx, const struct journal_head *h, const void *payload, uint64_t at)
{
    struct scan *x = ctx;
    struct store *s = x->s;
    if (h->kind == JOURNAL_RECORDS)
        return store_index(s, x->source, h, payload, at);
    if (h->kind == JOURNAL_WEIGHTS)
        return take_weights(s, payload, h->n_small);
    if (h->kind == JOURNAL_TIMING)
        store_credit(s, x->source);
    if (h->kind == JOURNAL_TIMING)
        for (size_t i = 0; i + sizeof(struct sink_timing) <= h->n_small; i += sizeof(struct sink_timing)) {
            struct sink_timing t;
            memcpy(&t, (const char *)payload + i, sizeof t);
            store_map_timing(s, &s->source[x->source], t, true);
        }
    return 0;
}

static void say_damage(const struct source *c, const struct journal_rest *rest)
{
    if (rest->damaged)
        log_warn("%s is damaged at byte %llu: %llu bytes are left out, their units will be computed again",
                 c->path, (unsigned long long)rest->at, (unsigned long long)rest->bytes);
    else if (rest->bytes)
        log_debug("%s: the last %llu bytes are not a whole entry", c->path, (unsigned long long)rest->bytes);
    if (c->n_lost)
        log_warn("%s.big is damaged: the logits of %lld units are gone, they will be computed again", c->path,
                 (long long)c->n_lost);
}

static void index_attempt(struct store *s, int source)
{
    struct scan x = {s, source};
    struct journal_rest rest;
    struct source *c = &s->source[source];
    int rc = journal_scan(c->fd, c->path, scan_entry, &x, &rest);
    if (rc < 0)
        log_warn("%s: what follows is left out and will be computed again", err_text());
    else
        say_damage(c, &rest);
    s->damaged = s->damaged || rc < 0 || rest.damaged || c->n_lost;
    if (!c->n_taken) { /* nothing will be read from it again; often restarted jobs have many such files */
        close(c->fd);
        if (c->fd_big >= 0)
            close(c->fd_big);
        c->fd = c->fd_big = -1;
    }
}

/* A file that was built while a run went on holds scores without logits: for a run such units are not there
 * unless the journal has them. */
static bool lacks_logits(const struct h5file *f, int64_t i)
{
    const struct row_record *r = &f->row[i];
    return !f->packed && (f->book.run.logits_first || f->book.run.topk) && r->status == ST_OK &&
           r->logit_at < 0 && r->first_at < 0;
}

static int index_h5(struct store *s, int source, bool with_logits)
{
    struct source *c = &s->source[source];
    struct h5file *f = c->h5;
    TRY(h5file_load(f));
    for (int64_t i = 0; i < f->n_row; i++) {
        if (with_logits && lacks_logits(f, i)) {
            c->n_lost += !store_has(s, f->row[i].unit_hi, f->row[i].unit_lo);
            continue;
        }
        struct record *r;
        int n;
        uint64_t at = f->small_at[i];
        TRY(record_unpack(f->small.data + at, f->small_at[i + 1] - at, NULL, 0, &r, &n));
        r->n_first = f->count[i].n_first;
        r->n_vocab = f->count[i].n_vocab;
        r->n_top = f->count[i].n_top;
        struct entry e = {.small_at = at,
                          .big_at = (uint64_t)i,
                          .small_bytes = (uint32_t)(f->small_at[i + 1] - at),
                          .bundle = -1};
        int rc = store_index_record(s, source, r, &e);
        record_free(r);
        free(r);
        if (rc < 0)
            return err_prefix(rc, "row %lld of /records", (long long)i);
    }
    for (int i = 0; i < f->n_timing; i++)
        store_map_timing(s, c, f->timing[i], false);
    if (c->n_lost && !s->damaged)
        log_warn("%s holds %lld units without the logits that were asked for, and the journal that had them "
                 "is gone: they will be computed again",
                 c->path, (long long)c->n_lost);
    return 0;
}

/* Whether the sources from `first` on, the journal of this file, hold all of its units. Units from files that
 * were loaded before do not count: theirs may have fewer logits. */
static bool covers(const struct store *s, int first, const struct h5file *f)
{
    for (int64_t i = 0; i < f->n_row; i++) {
        int64_t e = s->n_slot ? *store_slot(s, f->row[i].unit_hi, f->row[i].unit_lo) : 0;
        if (!e || s->entry[e - 1].source < first)
            return false;
    }
    return true;
}

static bool identity(const int32_t *map, int n)
{
    for (int i = 0; i < n; i++)
        if (map[i] != i)
            return false;
    return true;
}

/* FILE.h5 as it lies there equals what would be built now. */
static bool is_current(const struct store *s, const struct source *c)
{
    const struct book *b = &c->h5->book;
    return c->h5->packed && c->h5->n_row == s->n && c->h5->n_timing == s->n_timing &&
           b->n_setting == s->book.n_setting && b->n_task == s->book.n_task &&
           b->n_example == s->book.n_example && b->n_unit == store_units(s) &&
           identity(c->setting_map, b->n_setting) && identity(c->task_map, b->n_task);
}

static int refuse_old(const char *path, const char *what)
{
    return err_set(ERR_INPUT,
                   "%s%s was written with an earlier schema version than %d, in which unit ids meant "
                   "something else: write another file "
                   "(report, status, diff and export read this one)",
                   path, what, SCHEMA_VERSION);
}

static int check_plans(struct store *s, int first, const struct sink_run *must, const char *path)
{
    if (must && s->old_journal)
        return refuse_old(path, ".journal");
    for (int i = first; must && i < s->n_source; i++) {
        if (source_book(&s->source[i])->version != SCHEMA_VERSION)
            return refuse_old(s->source[i].path, "");
        TRY(book_same_plan(source_book(&s->source[i]), must, s->source[i].path));
    }
    if (s->old_journal)
        log_warn("%s.journal is of an earlier schema and left out: the program that wrote it can bring it "
                 "into the "
                 "file (kvsweep pack)",
                 path);
    return 0;
}

/* FILE.h5. Where the journal of a run is there it was built from that (journal_open follows keep_base), and a
 * damaged one costs nothing. */
static int open_file(struct store *s, int first, const char *path, bool check_big, struct store_found *found)
{
    found->file = file_exists(path);
    if (!found->file)
        return 0;
    int rc = open_h5(s, path, check_big);
    bool attempt = false;
    for (int i = first; i < s->n_source; i++)
        attempt = attempt || !s->source[i].h5;
    if (rc != ERR_DAMAGED || !attempt)
        return rc;
    log_warn("%s: left out, its journal holds the same", err_text());
    store_close_source(&s->source[--s->n_source]);
    found->file = false;
    found->bad_file = true;
    return 0;
}

/* Units that FILE.h5 alone has, or only its timings; then it is done with. */
static int index_file(struct store *s, int first, int at_file, bool with_logits, struct store_found *found)
{
    struct source *c = &s->source[at_file];
    if (!covers(s, first, c->h5)) {
        TRY(index_h5(s, at_file, with_logits));
        found->adds = c->n_taken > 0;
        found->current = is_current(s, c);
        return 0;
    }
    for (int i = 0; i < c->h5->n_timing; i++)
        store_map_timing(s, c, c->h5->timing[i], false);
    found->current = is_current(s, c);
    store_close_source(c);
    s->n_source--;
    return 0;
}

int store_load(struct store *s, const char *path, const struct sink_run *must, struct store_found *found)
{
    int first = s->n_source, rc;
    char *dir = journal_dir(path);
    *found = (struct store_found){.journal = file_is_dir(dir)};
    h5_quiet();
    /* The journal is opened before the file: whoever removes a journal has put its content in the file. */
    TRY_GOTO(open_folder(s, dir, must != NULL), done);
    int at_file = s->n_source;
    TRY_GOTO(open_file(s, first, path, must != NULL, found), done);
    TRY_GOTO(check_plans(s, first, must, path), done);
    TRY_GOTO(join_books(s, first), done);
    for (int i = first; i < at_file; i++) {
        if (s->source[i].h5)
            TRY_GOTO(index_h5(s, i, must != NULL), done);
        else
            index_attempt(s, i);
    }
    if (found->file)
        TRY_GOTO(index_file(s, first, at_file, must != NULL, found), done);
done:
    free(dir);
    return rc;
}

int store_add_attempt(struct store *s, const struct journal *j, const struct book *plan)
{
    struct source *c = push_source(s, j->path);
    c->fd = fcntl(j->fd, F_DUPFD_CLOEXEC, 0);
    c->fd_big = fcntl(j->fd_big, F_DUPFD_CLOEXEC, 0);
    c->size_big = UINT64_MAX;
    TRY(c->fd < 0 || c->fd_big < 0 ? err_set(ERR_IO, "cannot open %s again: %s", j->path, strerror(errno))
                                   : 0);
    TRY(book_join(&s->book, plan, &c->setting_map, &c->task_map));
    int32_t *a, *b;
    TRY(book_join(&c->book, plan, &a, &b));
    free(a);
    free(b);
    return s->n_source - 1;
}
