/* The plain cache of a window's layer: the newest keys and values that a query can see; a frozen prompt's,
 * which others may share, and own ones behind. Keys are stored rotated at their true positions. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/hold.h"
#include "kv/window.h"

#include <stdlib.h>

struct hold_window {
    struct kv_dense *prefix; /* NULL: none */
    struct kv_window own;
};

static int window_take(struct kv_cache *c, int64_t base)
{
    struct hold_window *p = c->state = mem_alloc(1, sizeof *p);
    return kv_window_open(c, &p->own, min64(c->kind->window, c->n_max - base), base);
}

static int window_open(struct kv_cache *c)
{
    return window_take(c, 0);
}

static int window_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    TRY(window_take(c, dense->n));
    ((struct hold_window *)c->state)->prefix = kv_dense_ref(dense);
    return 0;
}

static void window_close(struct kv_cache *c)
{
    struct hold_window *p = c->state;
    if (!p)
        return;
    kv_window_close(c, &p->own);
    if (p->prefix)
        kv_dense_unref(p->prefix, c->ops);
    free(p);
}

static void window_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct hold_window *p = c->state;
    kv_window_count(&p->own, l);
    if (p->prefix)
        kv_dense_count(p->prefix, l);
}

/* Runs of keys (i = 0) or values (i = 1), oldest first. At most two of the prefix, which is out of sight
 * before the own ring is full and can be two runs itself; the stage. */
static int window_runs(const struct kv_cache *c, const struct kv_window_step *s, int i,
                       struct kv_run out[ATTEND_RUNS])
{
    const struct hold_window *p = c->state;
    int n = 0;
    if (p->prefix) {
        const struct tensor *ring = i ? &p->prefix->v : &p->prefix->k;
        int64_t end = p->prefix->n, from = max64(s->pos - c->kind->window + 1, end - ring->n[0]);
        n = kv_ring_runs(ring, 0, max64(from, 0), end, out);
    }
    return n + kv_window_runs(&p->own, s, i, out + n);
}

/* The prompt's last keys, numbered from 0, before its rows (layer_kind.last_window). */
static void see_last(const struct kv_window_step *s, int64_t window, struct attend_args *a)
{
    a->q_pos = 0;
    a->set[0].dist_max = ATTEND_FAR;
    a->set[0].n_k = a->set[0].n_v = 1;
    a->set[0].k[0] = kv_run_of(&s->to[0], s->n - window, window, 0);
    a->set[0].v[0] = kv_run_of(&s->to[1], s->n - window, window, 0);
}

static void window_prepare(struct kv_cache *c, const struct kv_rows *r, const struct kv_window_step *s,
                           struct rope_args rope[3], struct attend_args *a)
{
    rope[0] = kv_rotate(r->q, r->q, c->kind->rope, r->pos);
    rope[1] = kv_rotate(r->k, s->to[0], c->kind->rope, r->pos);
    rope[2] = kv_rotate(r->v, s->to[1], NULL, 0);
    kv_attend_init(a, c, r);
    if (c->kind->last_window && s->pos == 0 && s->n > c->kind->window) {
        see_last(s, c->kind->window, a);
        return;
    }
    a->set[0].n_k = window_runs(c, s, 0, a->set[0].k);
    a->set[0].n_v = window_runs(c, s, 1, a->set[0].v);
}

static int window_release(struct kv_cache *const *c, struct kv_window_step *s, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++)
        any = any || s[i].mem[0].data;
    int rc = any ? c[0]->ops->sync(c[0]->ops) : 0; /* nothing on the device uses the stages any more */
    for (int i = 0; i < n; i++)
        kv_window_release(c[i], &s[i]);
    return rc;
}

static int window_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    struct ops *ops = c[0]->ops;
    struct kv_window_step *s = mem_alloc((size_t)n, sizeof *s);
    struct rope_args *rope = mem_alloc((size_t)n * 3, sizeof *rope);
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        const struct hold_window *p = c[i]->state;
        int64_t T = rows[i].q.n[0];
        rc = kv_window_begin(c[i], &p->own, rows[i].pos, T, T == 1, &s[i]);
        if (rc == 0)
            window_prepare(c[i], &rows[i], &s[i], rope + 3 * i, a + i);
    }
    if (rc == 0) {
        ops->rope(ops, rope, 3 * n);
        ops->attend(ops, a, n);
    }
    for (int i = 0; i < n && rc == 0; i++) {
        kv_window_end(ops, &((const struct hold_window *)c[i]->state)->own, &s[i]);
        c[i]->n += rows[i].q.n[0];
    }
    int released = window_release(c, s, n);
    free(s);
    free(rope);
    free(a);
    return rc < 0 ? rc : released;
}

static int window_freeze(struct kv_cache *c, struct kv_dense **out)
{
    struct hold_window *p = c->state;
    struct kv_window behind = {0};
    if (p->prefix && c->n > p->prefix->n)
        return err_set(ERR_INTERNAL, "layer %d goes on behind a shared prompt: it cannot be frozen",
                       (int)c->layer);
    int rc = p->prefix ? 0 : kv_window_open(c, &behind, min64(c->kind->window, c->n_max - c->n), c->n);
    if (rc < 0) {
        kv_window_close(c, &behind);
        return rc;
    }
    if (!p->prefix) {
        p->prefix = kv_dense_new(c);
        p->prefix->k = p->own.ring[0], p->prefix->v = p->own.ring[1];
        p->own = behind;
    }
    *out = kv_dense_ref(p->prefix);
    return 0;
}

const struct kv_hold kv_hold_window = {window_open, window_from_dense, window_freeze,
                                       window_step, window_bytes,      window_close};
