/* Bundles: which units are computed together. The rules see the configuration and the examples only, never
 * ranks, time or free memory, because the shape of a batch may show in the last bit of a logit. */
#include "base/mem.h"
#include "sweep/plan_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* One bundle while it grows, of the settings set[0..n_set). */
struct making {
    struct plan *p;
    int model, task;
    const int *set;
    int n_set;
    int64_t cap_unit, cap_bundle; /* of the plan's arrays */
    int n;                        /* units in the open bundle */
    double bytes;                 /* what it may need */
};

/* Prompt tokens of an example, guessed at four bytes a token unless the task counted them. */
static int32_t guess_tokens(const struct plan *p, const struct plan_model *m, int task,
                            const struct example *ex)
{
    int64_t n = (int64_t)(strlen(ex->before) + strlen(ex->context) + strlen(ex->after)) / 4 + 16;
    if (p->task[task].per_model && isfinite(ex->length))
        n = (int64_t)ex->length;
    int64_t most = m->run.max_len > 0 ? m->run.max_len : m->config.max_len;
    if (most > 0 && n > most)
        n = most;
    return (int32_t)(n < 1 ? 1 : n);
}

/* What a sequence will take. */
static double cache_bytes(const struct plan *p, int setting, int task, int64_t n_prompt, int max_new)
{
    const struct plan_variant *v = plan_variant(p, setting, task);
    const struct seq_shape *shape = &v->shape;
    const struct kv_spec *spec = &v->spec;
    struct kv_ledger l = {0};
    if (spec->budget)
        return fmin((double)spec->budget, (double)shape_full_bytes(shape, n_prompt + max_new));
    if (kv_predict(spec, shape, n_prompt, n_prompt + max_new, &l) < 0)
        return (double)shape_full_bytes(shape, n_prompt + max_new);
    return (double)kv_ledger_total(&l);
}

uint64_t plan_bundle_id(const struct plan *p, const int64_t *unit, int n)
{
    uint64_t *ids = mem_alloc(2 * (size_t)n, sizeof *ids);
    for (int i = 0; i < n; i++) {
        ids[2 * i] = p->unit[unit[i]].hi;
        ids[2 * i + 1] = p->unit[unit[i]].lo;
    }
    uint64_t id = XXH3_64bits(ids, 16 * (size_t)n);
    free(ids);
    return id;
}

static void flush(struct making *k)
{
    struct plan *p = k->p;
    if (!k->n)
        return;
    if (p->n_bundle == k->cap_bundle) {
        k->cap_bundle = k->cap_bundle ? 2 * k->cap_bundle : 64;
        p->bundle = mem_grow(p->bundle, (size_t)k->cap_bundle, sizeof *p->bundle);
    }
    struct plan_bundle *b = &p->bundle[p->n_bundle++];
    *b = (struct plan_bundle){.model = k->model, .task = k->task, .first = p->n_unit - k->n, .n = k->n};
    int64_t unit[PLAN_BATCH];
    for (int i = 0; i < k->n; i++)
        unit[i] = b->first + i;
    b->id = plan_bundle_id(p, unit, k->n);
    b->s_cost = plan_cost(p, b);
    k->n = 0;
    k->bytes = 0;
}

static void add_unit(struct making *k, int setting, int example, int32_t n_prompt)
{
    struct plan *p = k->p;
    if (p->n_unit == k->cap_unit) {
        k->cap_unit = k->cap_unit ? 2 * k->cap_unit : 256;
        p->unit = mem_grow(p->unit, (size_t)k->cap_unit, sizeof *p->unit);
    }
    struct plan_unit *u = &p->unit[p->n_unit++];
    *u = (struct plan_unit){.setting = setting, .task = k->task, .example = example, .n_prompt = n_prompt};
    u->over = plan_variant(p, setting, k->task)->over;
    plan_unit_id(p, u);
    k->n++;
}

/* All settings of one example, in the open bundle if they fit, in several bundles if even one example is too
 * big for the memory figure. */
static void add_example(struct making *k, int example)
{
    struct plan *p = k->p;
    const struct plan_model *m = &p->model[k->model];
    const struct task *t = m->task[k->task];
    int max_new = task_traits(t)->max_new;
    int32_t n_prompt = guess_tokens(p, m, k->task, task_example(t, example));
    double dense = (double)shape_full_bytes(&m->shape, n_prompt), need = dense,
           memory = (double)p->config->memory;
    for (int i = 0; i < k->n_set; i++)
        need += cache_bytes(p, k->set[i], k->task, n_prompt, max_new);
    if (k->n + k->n_set > PLAN_GROUP || k->bytes + need > memory)
        flush(k);
    for (int i = 0; i < k->n_set; i++) {
        double one = cache_bytes(p, k->set[i], k->task, n_prompt, max_new);
        if (need > memory && k->n && k->bytes + one > memory)
            flush(k);
        if (i == 0 || !k->n)
            k->bytes += dense;
        add_unit(k, k->set[i], example, n_prompt);
        k->bytes += one;
    }
    if (need > memory)
        flush(k);
}

/* The settings of a model on a task, those that share the plain prompt pass first. */
static int *order_settings(const struct plan *p, int model, int task, int *n)
{
    int *set = mem_alloc((size_t)p->n_setting, sizeof *set);
    *n = 0;
    for (int plain = 1; plain >= 0; plain--) {
        for (int i = 0; i < p->n_setting; i++) {
            const struct plan_setting *s = &p->setting[i];
            if (s->model != model || !plan_runs(p, i, task))
                continue;
            bool shares = kv_prefill_key(s->spec, 4096, &p->model[model].shape) == 0;
            if (shares == (bool)plain)
                set[(*n)++] = i;
        }
    }
    return set;
}

static int longer(const void *a, const void *b)
{
    const struct plan_bundle *x = a, *y = b;
    if (x->s_cost != y->s_cost)
        return x->s_cost > y->s_cost ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first; /* stable */
}

/* All units of a model on a task. */
static void add_task(struct making *k)
{
    const struct plan *p = k->p;
    int n = 0;
    int *set = order_settings(p, k->model, k->task, &n);
    int n_chunk = (n + PLAN_BATCH - 1) / PLAN_BATCH, size = n ? (n + n_chunk - 1) / n_chunk : 1;
    for (int at = 0; at < n; at += size) {
        k->set = set + at;
        k->n_set = n - at < size ? n - at : size;
        for (int e = 0; e < p->task[k->task].n_example; e++)
            add_example(k, e);
        flush(k);
    }
    free(set);
}

void plan_bundles(struct plan *p)
{
    struct making k = {.p = p};
    for (k.model = 0; k.model < p->n_model; k.model++) {
        for (k.task = 0; k.task < p->n_task; k.task++)
            if (!p->task[k.task].absent)
                add_task(&k);
    }
    if (p->n_bundle)
        qsort(p->bundle, (size_t)p->n_bundle, sizeof *p->bundle, longer);
}

#define RATE_FLOPS 100e9
#define RATE_BYTES 10e9

double plan_step_s(const struct plan *p, const struct plan_bundle *b, int64_t rows)
{
    const struct plan_model *m = &p->model[b->model];
    struct model_cost c;
    model_config_cost(&m->config, &c);
    int max_new = task_traits(m->task[b->task])->max_new;
    double head, products = cost_flops(&c, &head), bytes = cost_step_bytes(&c, m->run.dtype);
    int64_t longest = 0;
    for (int i = 0; i < b->n; i++) {
        const struct plan_unit *u = &p->unit[b->first + i];
        longest = u->n_prompt > longest ? u->n_prompt : longest;
        bytes += cache_bytes(p, u->setting, u->task, u->n_prompt, max_new);
    }
    int64_t n = longest < rows ? longest : rows;
    double chunk = (double)n * products + shape_mix_flops(&m->shape, longest - n, longest) + head;
    double token = b->n * (products + head) / RATE_FLOPS + bytes / RATE_BYTES;
    return chunk / RATE_FLOPS > token ? chunk / RATE_FLOPS : token;
}

/* A guess for ordering and for the first ETA: prompt passes at 100 GFLOP/s a core, answers (half of the
 * allowed length, at most 64 tokens) at 10 GB/s of weights per step of the batch plus the caches read. */
double plan_cost(const struct plan *p, const struct plan_bundle *b)
{
    const struct plan_model *m = &p->model[b->model];
    struct model_cost c;
    model_config_cost(&m->config, &c);
    int max_new = task_traits(m->task[b->task])->max_new;
    double answer = max_new < 128 ? max_new / 2.0 : 64, flops = 0, bytes = 0, head,
           products = cost_flops(&c, &head);
    for (int i = 0; i < b->n; i++) {
        const struct plan_unit *u = &p->unit[b->first + i], *before = i ? u - 1 : NULL;
        const struct kv_spec *spec = &plan_variant(p, u->setting, u->task)->spec;
        bool own = kv_prefill_key(spec, u->n_prompt, &m->shape) != 0;
        if (own || !before || before->example != u->example)
            flops += u->n_prompt * products + shape_mix_flops(&m->shape, 0, u->n_prompt);
        flops += answer * (products + head);
        bytes += answer * cache_bytes(p, u->setting, u->task, u->n_prompt, max_new);
    }
    bytes += answer * cost_step_bytes(&c, m->run.dtype);
    return flops / RATE_FLOPS + bytes / RATE_BYTES;
}
