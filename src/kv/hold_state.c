/* The state of a recurrent layer: its arrays, which the family updates in place. Every sequence has its own;
 * a frozen prompt holds a copy of them. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/hold.h"

#include <assert.h>
#include <stdlib.h>

struct hold_state {
    struct kv_mem mem[SHAPE_STATES];
    struct tensor array[SHAPE_STATES];
};

static int take_arrays(const struct kv_cache *c, struct hold_state *s)
{
    *s = (struct hold_state){0};
    for (int32_t i = 0; i < c->kind->n_state; i++) {
        const struct state_array *a = &c->kind->state[i];
        s->array[i] = (struct tensor){NULL, a->dtype, {a->n[0], a->n[1], a->n[2], 1}};
        TRY(kv_mem_open(c, &s->mem[i], tensor_bytes(&s->array[i]), MEM_STATE)); /* zeros */
        s->array[i].data = s->mem[i].data;
    }
    return 0;
}

static void give_arrays(const struct kv_cache *c, struct hold_state *s)
{
    for (int32_t i = 0; i < SHAPE_STATES; i++)
        kv_mem_close(c, &s->mem[i]);
}

static void copy_arrays(const struct kv_cache *c, struct tensor *dst, const struct tensor *src)
{
    for (int32_t i = 0; i < c->kind->n_state; i++)
        c->ops->copy(c->ops, dst[i].data, src[i].data, tensor_bytes(&src[i]));
}

static int state_open(struct kv_cache *c)
{
    struct hold_state *s = c->state = mem_alloc(1, sizeof *s);
    return take_arrays(c, s);
}

static int state_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    TRY(state_open(c));
    copy_arrays(c, ((struct hold_state *)c->state)->array, dense->state);
    return 0;
}

static int state_freeze(struct kv_cache *c, struct kv_dense **out)
{
    struct hold_state copy;
    int rc = take_arrays(c, &copy);
    if (rc < 0) {
        give_arrays(c, &copy);
        return rc;
    }
    struct kv_dense *d = *out = kv_dense_new(c);
    for (int32_t i = 0; i < c->kind->n_state; i++)
        d->state[i] = copy.array[i];
    copy_arrays(c, d->state, ((const struct hold_state *)c->state)->array);
    return 0;
}

static void state_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    kv_mem_count(((const struct hold_state *)c->state)->mem, SHAPE_STATES, l);
}

static void state_close(struct kv_cache *c)
{
    if (c->state)
        give_arrays(c, c->state);
    free(c->state);
}

struct tensor kv_state(const struct kv_cache *c, int32_t i)
{
    assert(c->kind->mixer == MIX_RECURRENT && i >= 0 && i < c->kind->n_state);
    return ((const struct hold_state *)c->state)->array[i];
}

const struct kv_hold kv_hold_state = {state_open, state_from_dense, state_freeze,
                                      NULL,       state_bytes,      state_close};
