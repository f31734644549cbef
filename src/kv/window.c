/* Rings of the newest tokens. */
#include "kv/window.h"

#include "base/err.h"

int kv_window_open(const struct kv_cache *c, struct kv_window *w, int64_t capacity, int64_t base)
{
    const size_t bytes = (size_t)capacity * kv_row_bytes(c);
    *w = (struct kv_window){.base = base};
    for (int i = 0; i < 2; i++) {
        TRY(kv_mem_open(c, &w->mem[i], bytes, MEM_WINDOW));
        w->ring[i] = kv_tensor(c, w->mem[i].data, capacity);
    }
    return 0;
}

void kv_window_close(const struct kv_cache *c, struct kv_window *w)
{
    for (int i = 0; i < 2; i++)
        kv_mem_close(c, &w->mem[i]);
}

void kv_window_count(const struct kv_window *w, struct kv_ledger *l)
{
    kv_mem_count(w->mem, 2, l);
}

int kv_window_begin(const struct kv_cache *c, const struct kv_window *w, int64_t pos, int64_t n, bool alone,
                    struct kv_window_step *s)
{
    const int64_t seen = pos - w->base, capacity = w->ring[0].n[0];
    *s = (struct kv_window_step){.pos = pos, .n = n, .n_old = min64(seen, capacity)};
    s->staged = !alone && seen + n > capacity;
    for (int i = 0; i < 2 && n; i++) {
        if (s->staged)
            TRY(kv_mem_open(c, &s->mem[i], (size_t)n * kv_row_bytes(c), MEM_WORKSPACE));
        s->to[i] = s->staged ? kv_tensor(c, s->mem[i].data, n) : tensor_rows(&w->ring[i], seen % capacity, n);
    }
    return 0;
}

int kv_window_runs(const struct kv_window *w, const struct kv_window_step *s, int i, struct kv_run *out)
{
    int64_t n_ring = s->n_old + (s->staged ? 0 : s->n), to = s->pos + (s->staged ? 0 : s->n);
    if (n_ring > w->ring[i].n[0]) /* the newest row took the place of the oldest */
        n_ring = w->ring[i].n[0];
    int n = kv_ring_runs(&w->ring[i], w->base, to - n_ring, to, out);
    if (s->staged)
        out[n++] = kv_run_of(&s->to[i], 0, s->n, s->pos);
    return n;
}

void kv_window_end(struct ops *ops, const struct kv_window *w, const struct kv_window_step *s)
{
    for (int i = 0; i < 2 && s->staged; i++) {
        int64_t n = min64(s->n, w->ring[i].n[0]);
        struct tensor newest = tensor_rows(&s->to[i], s->n - n, n);
        kv_ring_put(ops, &w->ring[i], w->base, &newest, s->pos + s->n - n);
    }
}

void kv_window_release(const struct kv_cache *c, struct kv_window_step *s)
{
    for (int i = 0; i < 2; i++)
        kv_mem_close(c, &s->mem[i]);
}
