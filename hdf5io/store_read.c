/* Reading from a store: records and logits from wherever they are. */
#include "hdf5io/store.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <xxhash.h>

static int64_t done_by_id(const struct store *s)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_plan_id; i++)
        n += store_has(s, s->plan_id[i][0], s->plan_id[i][1]);
    return n;
}

/* A unit is of the newest plan if one of its rows has the same units on the task, and if it has the example.
 */
static int64_t done_by_row(const struct store *s)
{
    int *like = book_alike(s->book.setting, s->book.n_setting, s->book.task, s->book.n_task);
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const struct entry *e = &s->entry[i];
        n += e->task < s->base_task && e->example < s->base_example[e->task] &&
             like[(int64_t)e->task * s->book.n_setting + e->setting] < s->base_setting;
    }
    free(like);
    return n;
}

int64_t store_done(const struct store *s)
{
    return s->plan_id ? done_by_id(s) : done_by_row(s);
}

int64_t store_units(const struct store *s)
{
    return s->book.n_unit + s->n - store_done(s);
}

static int by_unit(const void *a, const void *b, void *entry)
{
    const struct entry *x = (struct entry *)entry + *(const int64_t *)a,
                       *y = (struct entry *)entry + *(const int64_t *)b;
    if (x->hi != y->hi)
        return x->hi < y->hi ? -1 : 1;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

void store_sort(struct store *s)
{
    if (s->n_order == s->n && s->order)
        return;
    s->order = mem_grow(s->order, (size_t)s->n, sizeof *s->order);
    for (int64_t i = 0; i < s->n; i++)
        s->order[i] = i;
    qsort_r(s->order, (size_t)s->n, sizeof *s->order, by_unit, s->entry);
    s->n_order = s->n;
}

int store_read_entry(const struct store *s, const struct entry *e, struct record *r)
{
    const struct source *c = &s->source[e->source];
    struct record *one = NULL;
    int n = 0, rc;
    if (c->h5) {
        rc = record_unpack(c->h5->small.data + e->small_at, e->small_bytes, NULL, 0, &one, &n);
    } else {
        char *flat = mem_grow(NULL, e->small_bytes, 1);
        rc = journal_pread(c->fd, flat, e->small_bytes, e->small_at, c->path);
        if (rc == 0)
            rc = record_unpack(flat, e->small_bytes, NULL, 0, &one, &n);
        free(flat);
    }
    if (rc < 0 || n != 1)
        return rc < 0 ? err_prefix(rc, "%s", c->path) : err_set(ERR_INPUT, "%s has changed", c->path);
    *r = *one;
    free(one);
    r->setting = e->setting;
    r->task = e->task;
    r->n_first = e->n_first;
    r->n_vocab = e->n_vocab;
    r->n_top = e->n_top;
    return 0;
}

int store_read(struct store *s, int64_t k, struct record *r)
{
    return store_read_entry(s, &s->entry[s->order[k]], r);
}

bool store_check_bundle(const struct source *c, struct store_bundle *b)
{
    enum { BLOCK = 1 << 22 };
    if (b->state)
        return b->state > 0;
    char *buf = mem_grow(NULL, BLOCK, 1);
    XXH3_state_t *st = XXH3_createState();
    int rc = c->fd_big < 0 ? -1 : 0; /* what cannot be read is as gone as what was changed */
    XXH3_64bits_reset(st);
    for (uint64_t at = 0; at < b->bytes && rc == 0; at += BLOCK) {
        size_t n = b->bytes - at < BLOCK ? (size_t)(b->bytes - at) : BLOCK;
        rc = journal_pread(c->fd_big, buf, n, b->at + at, c->path);
        if (rc == 0)
            XXH3_64bits_update(st, buf, n);
    }
    b->state = rc == 0 && XXH3_64bits_digest(st) == b->sum ? 1 : -1;
    XXH3_freeState(st);
    free(buf);
    return b->state > 0;
}

bool store_check(struct store *s, int64_t k)
{
    const struct entry *e = &s->entry[s->order[k]];
    struct source *c = &s->source[e->source];
    return e->bundle < 0 || store_check_bundle(c, &c->bundle[e->bundle]);
}

int store_part(struct store *s, int64_t k, const struct record *r, enum part p, int64_t at, int64_t n,
               void *dst)
{
    const struct entry *e = &s->entry[s->order[k]];
    const struct source *c = &s->source[e->source];
    if (c->h5)
        return h5file_part(c->h5, (int64_t)e->big_at, p, at, n, dst);
    struct record_big big;
    record_big_bytes(r, &big);
    const size_t begin[PART_N] = {big.topk_id, big.logsumexp, big.topk_logit, big.first};
    uint64_t row = (uint64_t)part_width(p, r) * part_size(p);
    return journal_pread(c->fd_big, dst, (size_t)((uint64_t)n * row),
                         e->big_at + begin[p] + (uint64_t)at * row, c->path);
}
