/* Opening a model, its rotary tables, its workspace, and the entry of a forward pass. */
#include "base/err.h"
#include "base/mem.h"
#include "model/model_int.h"
#include "model/rope.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WS_ALIGN   256 /* bytes: every buffer of the workspace begins at a multiple */
#define WS_BUFFERS 16  /* most buffers of one pass, for the padding */

/* GGUF keeps llama3's scaling as one divisor per frequency. */
static int read_divisor(struct model *m, const struct model_file *f)
{
    static const char name[] = "rope_freqs.weight";
    struct model_tensor t;
    int64_t half = m->cfg.head_dim / 2;
    if (!model_file_has(f, name))
        return 0;
    TRY(model_file_find(f, name, &half, 1, &t));
    m->rope_divisor = mem_alloc((size_t)half, sizeof *m->rope_divisor);
    TRY(model_tensor_read(f, &t, name, 0, half, m->rope_divisor));
    for (int64_t i = 0; i < half; i++)
        if (!(m->rope_divisor[i] > 0) || !isfinite(m->rope_divisor[i]))
            return err_set(ERR_INPUT, "%s: tensor '%s' must hold numbers above 0", f->path, name);
    return 0;
}

int model_open(struct model **out, struct ops *ops, struct model_file *f, const struct model_options *opt)
{
    *out = NULL;
    const struct family *fam = family_find(f->cfg.architecture);
    if (!fam)
        return err_set(ERR_INTERNAL, "%s: no family for '%s'", f->path, f->cfg.architecture);
    struct model *m = mem_alloc(1, sizeof *m);
    m->ops = ops;
    m->cfg = f->cfg;
    model_config_limit(&m->cfg, opt->max_len);
    m->family = fam;
    int rc = read_divisor(m, f);
    if (rc == 0)
        rc = fam->bind(m, f);
    if (rc == 0)
        rc = load_check(&m->load, f, fam->spare);
    if (rc == 0)
        rc = load_run(&m->load, f, ops, opt);
    if (rc < 0) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

static void free_ropes(struct model *m)
{
    while (m->ropes) {
        struct rope_node *r = m->ropes;
        m->ropes = r->next;
        m->ops->free(m->ops, (void *)(uintptr_t)r->rope.inv_freq);
        free(r);
    }
}

void model_close(struct model *m)
{
    if (!m)
        return;
    free_ropes(m);
    if (m->ws)
        m->ops->free(m->ops, m->ws);
    m->family->close(m);
    load_free(&m->load, m->ops);
    free(m->rope_divisor);
    free(m->ids);
    free(m->rows);
    free(m->caches);
    free(m->args);
    free(m);
}

const struct model_config *model_config(const struct model *m)
{
    return &m->cfg;
}

struct ops *model_ops(struct model *m)
{
    return m->ops;
}

uint64_t model_weight_bytes(const struct model *m)
{
    return m->load.bytes;
}

void model_weights_xxh3(const struct model *m, uint64_t hash[2])
{
    memcpy(hash, m->load.content, sizeof m->load.content);
}

/* ---- cost ---- */

void model_config_cost(const struct model_config *c, struct model_cost *cost)
{
    family_find(c->architecture)->cost(c, cost);
}

static double product_flops(const struct model_cost *c, int32_t i)
{
    return 2.0 * (double)c->product[i].count * (double)(c->product[i].n_out * c->product[i].n_in);
}

double cost_flops(const struct model_cost *c, double *head)
{
    double sum = 0;
    for (int32_t i = 0; i < c->n_product; i++)
        sum += i == c->head ? 0 : product_flops(c, i);
    *head = product_flops(c, c->head);
    return sum;
}

double cost_step_bytes(const struct model_cost *c, enum dtype dtype)
{
    double head, flops = cost_flops(c, &head);
    return 0.5 * (flops + head) * (double)dtype_bytes(dtype);
}

void model_set_tap(struct model *m, void (*tap)(void *ctx, int layer, const struct kv_rows *rows, int n),
                   void *ctx)
{
    m->tap = tap;
    m->tap_ctx = ctx;
}

/* ---- rotary tables ---- */

static int find_rope(struct model *m, int32_t setting, int32_t n_rot, double factor, const struct rope **rope)
{
    struct rope_node *r = m->ropes;
    while (r && (r->setting != setting || r->factor != factor || r->rope.n_rot != n_rot))
        r = r->next;
    if (!r) {
        size_t bytes = (size_t)n_rot / 2 * sizeof(float);
        float *host = mem_alloc(1, bytes), *dev = m->ops->alloc(m->ops, bytes, MEM_WEIGHTS, PLACE_DEVICE);
        if (!dev) {
            free(host);
            return err_set(ERR_NOMEM, "no device memory for a rotary table");
        }
        const struct rope_setting *set = &m->cfg.rope[setting];
        rope_frequencies(set, setting == 0 ? m->rope_divisor : NULL, n_rot, factor, host);
        m->ops->copy(m->ops, dev, host, bytes);
        int rc = m->ops->sync(m->ops);
        free(host);
        r = mem_alloc(1, sizeof *r);
        *r = (struct rope_node){setting, factor, {n_rot, rope_scale(set), dev}, m->ropes};
        m->ropes = r;
        TRY(rc);
    }
    *rope = &r->rope;
    return 0;
}

void model_config_shape(const struct model_config *c, enum dtype cache_dtype,
                        const struct shape_options *options, struct seq_shape *shape)
{
    const struct family *f = family_find(c->architecture);
    f->shape(c, shape);
    shape->dtype = cache_dtype;
    if (options)
        shape->options = *options;
    if (f->apply)
        f->apply(c, shape);
}

void model_config_limit(struct model_config *c, int64_t max_len)
{
    c->within = c->window && max_len > 0 && max_len <= c->window;
}

int model_seq_shape(struct model *m, enum dtype cache_dtype, const struct model_overrides *over,
                    struct seq_shape *shape)
{
    const double factor = over->rope_theta_factor;
    model_config_shape(&m->cfg, cache_dtype, &over->options, shape);
    if (!(factor > 0) || !isfinite(factor))
        return err_set(ERR_INPUT, "rope_theta_factor %g must be a number above 0", factor);
    for (int32_t i = 0; i < shape->n_kind; i++) {
        struct layer_kind *k = &shape->kind[i];
        if (k->mixer == MIX_ATTENTION && k->n_rot)
            TRY(find_rope(m, k->rope_of, k->n_rot, k->rope_of == 0 ? factor : 1, &k->rope));
    }
    return 0;
}

/* ---- workspace ---- */

static void drop_workspace(struct model *m)
{
    if (m->ws)
        m->ops->free(m->ops, m->ws);
    m->ws = NULL;
    m->ws_rows = m->ws_logit_rows = 0;
}

int model_fit(struct model *m, int64_t rows, int64_t logit_rows)
{
    if (rows < m->ws_rows || logit_rows < m->ws_logit_rows)
        drop_workspace(m);
    return model_reserve(m, rows, logit_rows);
}

int model_reserve(struct model *m, int64_t rows, int64_t logit_rows)
{
    if (rows <= m->ws_rows && logit_rows <= m->ws_logit_rows)
        return 0;
    rows = rows > m->ws_rows ? rows : m->ws_rows;
    logit_rows = logit_rows > m->ws_logit_rows ? logit_rows : m->ws_logit_rows;
    drop_workspace(m);
    size_t acts = (size_t)rows * m->row_bytes + WS_ALIGN * WS_BUFFERS;
    acts = (acts + WS_ALIGN - 1) / WS_ALIGN * WS_ALIGN;
    m->ws_bytes = acts + (size_t)logit_rows * (size_t)m->cfg.n_vocab * sizeof(float);
    m->ws = m->ops->alloc(m->ops, m->ws_bytes, MEM_WORKSPACE, PLACE_DEVICE);
    if (!m->ws)
        return err_set(ERR_NOMEM, "no device memory for the workspace of %" PRId64 " rows (%zu bytes)", rows,
                       m->ws_bytes);
    m->ws_rows = rows;
    m->ws_logit_rows = logit_rows;
    m->logits = (struct tensor){(char *)m->ws + acts, DT_F32, {logit_rows, m->cfg.n_vocab, 1, 1}};
    m->ids = mem_grow(m->ids, (size_t)rows, sizeof *m->ids);
    return 0;
}

struct tensor model_scratch(struct model *m, int64_t rows, int64_t width, enum dtype dtype)
{
    struct tensor t = {(char *)m->ws + m->ws_used, dtype, {rows, width, 1, 1}};
    m->ws_used += (tensor_bytes(&t) + WS_ALIGN - 1) / WS_ALIGN * WS_ALIGN;
    assert(m->ws_used <= m->ws_bytes - tensor_bytes(&m->logits));
    return t;
}

void *model_args(struct model *m, size_t n, size_t size)
{
    if (n * size > m->args_bytes) {
        m->args_bytes = n * size;
        m->args = mem_grow(m->args, n, size);
    }
    return m->args;
}

int64_t model_wanted(const struct model *m, int n, int64_t rows)
{
    return m->want == LOGITS_ALL ? rows : m->want == LOGITS_LAST ? n : 0;
}

void model_gather(struct model *m, struct tensor dst, struct tensor x, const struct batch_item *item, int n)
{
    size_t row_bytes = (size_t)x.n[1] * dtype_bytes(x.dtype);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        at += item[i].n;
        m->ops->copy(m->ops, (char *)dst.data + (size_t)i * row_bytes,
                     (char *)x.data + (size_t)(at - 1) * row_bytes, row_bytes);
    }
}

/* ---- forward ---- */

static int check_item(const struct model *m, const struct batch_item *it)
{
    assert(it->n > 0 && it->seq->model == m);
    if (it->n > it->seq->n_max - it->seq->pos)
        return err_set(ERR_TOO_LONG,
                       "%" PRId64 " tokens after %" PRId64 " are more than the %" PRId64
                       " the sequence was opened for",
                       it->n, it->seq->pos, it->seq->n_max);
    for (int64_t i = 0; i < it->n; i++)
        if (it->ids[i] < 0 || it->ids[i] >= m->cfg.n_vocab)
            return err_set(ERR_INPUT, "token id %d is outside the model's vocabulary of %" PRId64, it->ids[i],
                           m->cfg.n_vocab);
    return 0;
}

int model_forward(struct model *m, const struct batch_item *item, int n, enum logits_want want,
                  struct tensor *logits)
{
    int64_t rows = 0, at = 0;
    for (int i = 0; i < n; i++) {
        TRY(check_item(m, &item[i]));
        rows += item[i].n;
    }
    m->want = want;
    int64_t wanted = model_wanted(m, n, rows);
    TRY(model_reserve(m, rows, wanted));
    if (n > m->n_batch) {
        m->rows = mem_grow(m->rows, (size_t)n, sizeof *m->rows);
        m->caches = mem_grow(m->caches, (size_t)n, sizeof *m->caches);
        m->n_batch = n;
    }
    for (int i = 0; i < n; i++) {
        memcpy(m->ids + at, item[i].ids, (size_t)item[i].n * sizeof *m->ids);
        at += item[i].n;
    }
    m->ws_used = 0;
    m->out = tensor_rows(&m->logits, 0, wanted);
    int rc = m->family->forward(m, item, n, rows);
    int latched = m->ops->sync(m->ops);
    TRY(rc);
    TRY(latched);
    for (int i = 0; i < n; i++)
        item[i].seq->pos += item[i].n;
    if (want != LOGITS_NONE)
        *logits = m->out;
    return 0;
}
