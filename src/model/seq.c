/* Sequences: one cache or state per layer; kinds of layers are known here, families are not. */
#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

/* Caches keep a pointer to their shape; it lies behind them on the heap, so that a struct seq may move. */
static struct seq_shape *take_layers(struct seq *s, struct model *m, const struct seq_shape *shape)
{
    size_t caches = (size_t)shape->n_layer * sizeof(struct kv_cache);
    *s = (struct seq){.model = m, .shape = *shape};
    char *p = mem_alloc(1, caches + sizeof *shape);
    s->layer = (struct kv_cache *)(void *)p;
    return memcpy(p + caches, shape, sizeof *shape);
}

/* Everything that opens a sequence comes by here. */
static int check_length(const struct seq_shape *shape, int64_t n_max)
{
    if (n_max <= shape->max_len)
        return 0;
    return err_set(ERR_INPUT,
                   "a sequence of %lld tokens is longer than the %lld of its sliding window, to which the "
                   "model's max_len "
                   "keeps it",
                   (long long)n_max, (long long)shape->max_len);
}

static int finish(struct seq *s, int rc)
{
    if (rc < 0)
        seq_close(s);
    return rc;
}

int seq_open(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *spec,
             int64_t n_prompt, int64_t n_max)
{
    const struct seq_shape *own = take_layers(s, m, shape);
    s->n_prompt = n_prompt;
    s->n_max = n_max;
    int rc = check_length(shape, n_max);
    for (int32_t i = 0; i < shape->n_layer && rc == 0; i++)
        rc = kv_open(&s->layer[i], spec, own, model_ops(m), i, n_prompt, n_max);
    return finish(s, rc);
}

int seq_open_prompt(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *full,
                    int64_t n, unsigned watch)
{
    int rc = seq_open(s, m, shape, full, n, n);
    for (int32_t i = 0; i < shape->n_layer && rc == 0 && watch; i++)
        rc = kv_watch(&s->layer[i], watch);
    return finish(s, rc);
}

void seq_close(struct seq *s)
{
    for (int32_t i = 0; s->layer && i < s->shape.n_layer; i++)
        kv_close(&s->layer[i]);
    free(s->layer);
    *s = (struct seq){0};
}

int seq_freeze(struct seq *s, struct seq_prompt *p)
{
    *p = (struct seq_prompt){.n_layer = s->shape.n_layer, .n = s->pos, .ops = model_ops(s->model)};
    p->dense = mem_alloc((size_t)p->n_layer, sizeof *p->dense);
    int rc = 0;
    for (int32_t i = 0; i < p->n_layer && rc == 0; i++)
        rc = kv_freeze(&s->layer[i], &p->dense[i]);
    if (rc < 0)
        seq_prompt_close(p);
    return rc;
}

void seq_prompt_close(struct seq_prompt *p)
{
    for (int32_t i = 0; p->dense && i < p->n_layer; i++) {
        if (p->dense[i])
            kv_dense_settle(p->dense[i], p->ops);
        kv_dense_unref(p->dense[i], p->ops);
    }
    free(p->dense);
    *p = (struct seq_prompt){0};
}

int seq_fork(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *spec,
             const struct seq_prompt *p, int64_t n_max)
{
    const struct seq_shape *own = take_layers(s, m, shape);
    s->pos = s->n_prompt = p->n;
    s->n_max = n_max;
    int rc = check_length(shape, n_max);
    for (int32_t i = 0; i < shape->n_layer && rc == 0; i++)
        rc = kv_fork(&s->layer[i], spec, own, model_ops(m), i, p->dense[i], n_max);
    return finish(s, rc);
}

void seq_bytes(const struct seq *s, struct kv_ledger *l)
{
    for (int32_t i = 0; i < s->shape.n_layer; i++)
        kv_bytes(&s->layer[i], l);
}

void seq_budgets(const struct seq *s, struct kv_budgets *b)
{
    kv_seq_budgets(s->layer, s->shape.n_layer, b);
}
