/* The index of a store: which units there are, where, and which of two records of one counts. */
#include "hdf5io/store_int.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The rows there are now are those of the newest plan, which had so many examples. */
void store_set_base(struct store *s, const struct book *plan)
{
    s->base_setting = s->book.n_setting;
    s->base_task = s->book.n_task;
    s->base_example = mem_alloc((size_t)s->base_task + 1, sizeof *s->base_example);
    for (int i = 0; i < s->base_task; i++)
        s->base_example[i] = plan->task[i].n_examples;
}

void store_init(struct store *s, const struct book *plan)
{
    *s = (struct store){0};
    if (!plan)
        return;
    int32_t *a, *b;
    int rc = book_join(&s->book, plan, &a, &b);
    (void)rc; /* joining with nothing cannot disagree */
    free(a);
    free(b);
    store_set_base(s, &s->book);
}

void store_plan_units(struct store *s, const uint64_t (*id)[2], int64_t n)
{
    s->plan_id = mem_dup(id, (size_t)n * sizeof *id);
    s->n_plan_id = n;
}

void store_close_source(struct source *c)
{
    if (c->fd >= 0)
        close(c->fd);
    if (c->fd_big >= 0)
        close(c->fd_big);
    if (c->h5)
        h5file_close(c->h5);
    free(c->h5);
    free(c->path);
    free(c->setting_map);
    free(c->task_map);
    free(c->bundle);
    book_free(&c->book);
}

void store_close(struct store *s)
{
    for (int i = 0; i < s->n_source; i++)
        store_close_source(&s->source[i]);
    free(s->source);
    free(s->entry);
    free(s->order);
    free(s->slot);
    free(s->timing);
    free(s->base_example);
    free(s->plan_id);
    book_free(&s->book);
    *s = (struct store){0};
}

/* ---- set of units ---- */
/* Ids may come from anywhere, also in sequence: each bit of both halves reaches those that choose the slot.
 */
static uint64_t spread(uint64_t hi, uint64_t lo)
{
    uint64_t x = hi * 0x9e3779b97f4a7c15u ^ lo;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

int64_t *store_slot(const struct store *s, uint64_t hi, uint64_t lo)
{
    uint64_t mask = (uint64_t)s->n_slot - 1;
    for (uint64_t i = spread(hi, lo) & mask;; i = (i + 1) & mask) {
        int64_t e = s->slot[i];
        if (!e || (s->entry[e - 1].hi == hi && s->entry[e - 1].lo == lo))
            return &s->slot[i];
    }
}

bool store_has(const struct store *s, uint64_t hi, uint64_t lo)
{
    return s->n_slot && *store_slot(s, hi, lo);
}

static void add_entry(struct store *s, const struct entry *e)
{
    *MEM_PUSH(s->entry, s->n, s->cap) = *e;
    if (2 * s->n < s->n_slot) {
        *store_slot(s, e->hi, e->lo) = s->n;
        return;
    }
    s->n_slot = s->n_slot ? 2 * s->n_slot : 1024;
    free(s->slot);
    s->slot = mem_alloc((size_t)s->n_slot, sizeof *s->slot);
    for (int64_t i = 0; i < s->n; i++)
        *store_slot(s, s->entry[i].hi, s->entry[i].lo) = i + 1;
}

static void count_sizes(struct store *s, const struct record *r)
{
    s->n_text += (int64_t)((r->text ? r->n_text : 0) + (r->error ? strlen(r->error) : 0));
    s->n_token += r->token ? r->n_new : 0;
    s->n_metric += r->n_metric;
    s->n_budget += r->n_budget;
    s->n_ledger += r->n_ledger;
    s->n_fidelity += r->n_fidelity;
}

/* ---- indexing ---- */
/* Whether two records of one unit say the same. What depends on the company it was computed in, on the
 * machine and on what was asked for beside the answer may differ. */
static bool same_answer(const struct record *x, const struct record *y)
{
    if (x->status != y->status || x->prompt_hash != y->prompt_hash)
        return false;
    if (x->status != ST_OK)
        return true;
    return x->stop == y->stop && x->n_new == y->n_new && memcmp(&x->score, &y->score, sizeof x->score) == 0 &&
           record_same_text(x, y) &&
           (x->n_new == 0 || !x->token || !y->token ||
            memcmp(x->token, y->token, (size_t)x->n_new * sizeof *x->token) == 0);
}

void store_credit(struct store *s, int source)
{
    struct source *c = &s->source[source];
    if (!c->credited)
        book_origin(&s->book, &source_book(c)->run, s->has_origin);
    c->credited = s->has_origin = true;
}

static void take_from(struct store *s, int source)
{
    s->source[source].n_taken++;
    store_credit(s, source);
}

/* Values that a record holds beside its answer. */
static int64_t extras(const struct entry *e, const struct record *r)
{
    struct record big = {.n_new = e->n_new, .n_first = e->n_first, .n_vocab = e->n_vocab, .n_top = e->n_top};
    int64_t n = r->n_fidelity;
    for (int p = 0; p < PART_N; p++)
        n += part_rows((enum part)p, &big) * part_width((enum part)p, &big);
    return n;
}

/* Of two records that say the same: the one with more beside its answer, else the same one in any order. */
static bool is_better(const struct entry *e, const struct record *r, const struct entry *old,
                      const struct record *have)
{
    int64_t more = extras(e, r) - extras(old, have);
    return more > 0 || (more == 0 && r->bundle < have->bundle);
}

/* A second record of a unit. Where the two say different things the first stays. */
static int choose(struct store *s, struct entry *old, const struct entry *e, const struct record *r)
{
    struct record have = {0};
    TRY(store_read_entry(s, old, &have));
    if (!same_answer(&have, r)) {
        if (s->conflict.n++ == 0)
            s->conflict = (struct store_conflict){1, e->setting, e->task, r->example};
    } else if (is_better(e, r, old, &have)) {
        *old = *e;
        take_from(s, e->source);
        s->n_fidelity += r->n_fidelity;
    }
    record_free(&have);
    return 0;
}

/* Adds one record if it is new or better than the one that is there. ERR_INPUT if it points outside its own
 * plan. */
int store_index_record(struct store *s, int source, const struct record *r, struct entry *e)
{
    struct source *c = &s->source[source];
    const struct book *b = source_book(c);
    if (r->setting < 0 || r->setting >= b->n_setting || r->task < 0 || r->task >= b->n_task)
        return err_set(ERR_INPUT, "%s holds a record that does not fit its plan", c->path);
    e->hi = r->unit_hi;
    e->lo = r->unit_lo;
    e->source = source;
    e->setting = c->setting_map[r->setting];
    e->task = c->task_map[r->task];
    e->example = r->example;
    e->n_new = r->n_new;
    e->n_first = r->n_first;
    e->n_vocab = r->n_vocab;
    e->n_top = r->n_top;
    if (store_has(s, e->hi, e->lo))
        return choose(s, &s->entry[*store_slot(s, e->hi, e->lo) - 1], e, r);
    add_entry(s, e);
    take_from(s, source);
    count_sizes(s, r);
    return 0;
}

/* Logits are written before the entry that names them, so a file that is too short is damaged; one that has
 * grown since it was looked at is not. */
static bool inside_big(struct source *c, const struct journal_head *h)
{
    struct stat st;
    uint64_t end;
    if (h->n_big == 0)
        return true;
    if (__builtin_add_overflow(h->big_at, h->n_big, &end))
        return false;
    if (end > c->size_big && c->fd_big >= 0 && fstat(c->fd_big, &st) == 0)
        c->size_big = (uint64_t)st.st_size;
    return end <= c->size_big;
}

/* The logits of an entry as one more bundle of its source; false if its units must be computed again. */
static bool add_bundle(struct source *c, const struct journal_head *h)
{
    if (h->n_big == 0)
        return true;
    struct store_bundle *b = MEM_PUSH(c->bundle, c->n_bundle, c->cap_bundle);
    *b = (struct store_bundle){h->big_at, h->n_big, h->big_sum, inside_big(c, h) ? 0 : -1};
    return !c->check_big || store_check_bundle(c, b);
}

static int index_records(struct store *s, int source, const struct journal_head *h, const char *payload,
                         uint64_t payload_at, const struct record *r, int n)
{
    uint64_t big = h->big_at, at = 0;
    for (int i = 0; i < n; i++) {
        size_t bytes = record_small_bytes(payload + at, h->n_small - at);
        struct entry e = {.small_at = payload_at + at,
                          .big_at = big,
                          .small_bytes = (uint32_t)bytes,
                          .bundle = h->n_big ? s->source[source].n_bundle - 1 : -1};
        TRY(store_index_record(s, source, &r[i], &e));
        at += bytes;
        big += record_big_bytes(&r[i], NULL);
    }
    return 0;
}

int store_index(struct store *s, int source, const struct journal_head *h, const void *payload,
                uint64_t payload_at)
{
    struct source *c = &s->source[source];
    struct record *r;
    int n, rc = 0;
    TRY(poll_call(&s->poll));
    TRY(record_unpack(payload, h->n_small, NULL, 0, &r, &n));
    uint64_t big = 0;
    for (int i = 0; i < n; i++)
        big += record_big_bytes(&r[i], NULL);
    if (big != h->n_big)
        rc = err_set(ERR_INPUT, "%s and its logits disagree in size", c->path);
    else if (add_bundle(c, h))
        rc = index_records(s, source, h, payload, payload_at, r, n);
    else
        c->n_lost += n;
    for (int i = 0; i < n; i++)
        record_free(&r[i]);
    free(r);
    return rc;
}

void store_add_timing(struct store *s, const struct sink_timing *t, bool replace)
{
    for (int i = 0; i < s->n_timing; i++) {
        struct sink_timing *o = &s->timing[i];
        if (o->setting == t->setting && o->task == t->task && o->example == t->example &&
            o->repeat == t->repeat) {
            if (replace)
                *o = *t;
            return;
        }
    }
    *MEM_PUSH(s->timing, s->n_timing, s->cap_timing) = *t;
}

void store_map_timing(struct store *s, const struct source *c, struct sink_timing t, bool replace)
{
    const struct book *b = source_book(c);
    if (t.setting < 0 || t.setting >= b->n_setting || t.task < 0 || t.task >= b->n_task)
        return;
    t.setting = c->setting_map[t.setting];
    t.task = c->task_map[t.task];
    store_add_timing(s, &t, replace);
}
