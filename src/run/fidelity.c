#include "run/fidelity.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double log_sum(const float *x, int64_t n, int64_t *best)
{
    *best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[*best])
            *best = i;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - (double)x[*best]);
    return (double)x[*best] + log(sum);
}

struct record_fidelity fidelity_row(const float *full, const float *other, int64_t n_vocab, int32_t gold,
                                    int32_t step)
{
    int64_t best, own;
    double a = log_sum(full, n_vocab, &best), b = log_sum(other, n_vocab, &own), kl = 0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double p = (double)full[i] - a;
        kl += exp(p) * (p - ((double)other[i] - b));
    }
    return (struct record_fidelity){step, (float)kl, best == own ? 1.0f : 0.0f,
                                    (float)((double)other[gold] - b)};
}

/* The device's row on the host; NULL if the device failed (the engine meets that error itself). */
static float *host_row(struct engine *e, struct tensor row, float *out)
{
    e->ops->copy(e->ops, out, row.data, (size_t)e->n_vocab * sizeof *out);
    return e->ops->sync(e->ops) == 0 ? out : NULL;
}

static void listen(void *ctx, struct slot *l, struct tensor row)
{
    struct engine *e = ctx;
    struct fidelity_reference *ref = l->user;
    if (!ref)
        return;
    size_t bytes = (size_t)l->max_new * (size_t)e->n_vocab * sizeof *ref->row;
    if (!ref->row)
        ref->row = e->ops->alloc(e->ops, bytes, MEM_WORKSPACE, PLACE_HOST);
    if (ref->row && host_row(e, row, ref->row + (size_t)ref->n * (size_t)e->n_vocab))
        ref->n++;
}

static void compare(void *ctx, struct slot *l, struct tensor row)
{
    struct engine *e = ctx;
    struct fidelity_rows *f = l->user;
    if (!f || f->n >= f->ref->n)
        return;
    float *own = mem_alloc((size_t)e->n_vocab, sizeof *own);
    const float *full = f->ref->row + (size_t)f->n * (size_t)e->n_vocab;
    if (host_row(e, row, own))
        f->row[f->n] = fidelity_row(full, own, e->n_vocab, f->ref->token[f->n], f->n), f->n++;
    free(own);
}

void fidelity_listen(struct engine *e)
{
    e->observe = listen;
    e->observe_ctx = e;
}

void fidelity_compare(struct engine *e)
{
    e->observe = compare;
    e->observe_ctx = e;
}

void fidelity_off(struct engine *e)
{
    e->observe = NULL;
    e->observe_ctx = NULL;
}

void fidelity_free(struct fidelity_reference *ref, struct ops *ops)
{
    free(ref->token);
    if (ref->row)
        ops->free(ops, ref->row);
    *ref = (struct fidelity_reference){0};
}
