/* XLM-RoBERTa as a token classifier: learned positions (a token's position is its index + 2), one token type,
 * post-LayerNorm blocks, GELU with erf, a linear layer of two labels. */
#include "base/err.h"
#include "base/mem.h"
#include "model/encoder.h"
#include "model/file_int.h"
#include "model/load.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POS_FIRST 2 /* position of the first token: padding_idx + 1 */
#define ROWS_MAX  4096
#define WS_ALIGN  256

/* Letters: D d_model, H heads, d head_dim, F d_ff, V vocabulary, P positions, T rows of a call. */
struct block {
    struct weight q, k, v, o;           /* [D, D] */
    const float *q_b, *k_b, *v_b, *o_b; /* [D] */
    const float *att_w, *att_b;         /* [D]: norm after attention */
    struct weight up, down;             /* [F, D], [D, F] */
    const float *up_b, *down_b;         /* [F], [D] */
    const float *out_w, *out_b;         /* [D]: norm after the feed-forward half */
};
struct encoder {
    struct ops *ops;
    struct model_config cfg;
    struct poll poll;
    struct load load;
    struct tensor words, positions, types; /* [V, D], [P, D], [1, D] */
    const float *norm_w, *norm_b;          /* [D] */
    struct block *block;                   /* [n_layer] */
    struct weight head;                    /* [2, D] */
    const float *head_b;                   /* [2] */
};

/* Names of one tensor, in the form the declarations take. */
struct name {
    char text[160];
    const char *p;
};
static const char *const *named(struct name *s, int layer, const char *tail)
{
    if (layer < 0)
        snprintf(s->text, sizeof s->text, "%s", tail);
    else
        snprintf(s->text, sizeof s->text, "roberta.encoder.layer.%d.%s", layer, tail);
    s->p = s->text;
    return &s->p;
}

/* TAIL.weight [rows, n_in] and TAIL.bias [rows]. */
static int bind_linear(struct encoder *e, const struct model_file *f, int layer, const char *tail,
                       int64_t rows, int64_t n_in, struct weight *w, const float **bias)
{
    char text[96];
    struct name s;
    snprintf(text, sizeof text, "%s.weight", tail);
    TRY(load_packed(&e->load, f, w, named(&s, layer, text), &rows, 1, n_in));
    snprintf(text, sizeof text, "%s.bias", tail);
    return load_floats(&e->load, f, bias, named(&s, layer, text), &rows, 1);
}

static int bind_norm(struct encoder *e, const struct model_file *f, int layer, const char *tail,
                     const float **w, const float **bias)
{
    char text[96];
    struct name s;
    snprintf(text, sizeof text, "%s.weight", tail);
    TRY(load_floats(&e->load, f, w, named(&s, layer, text), &e->cfg.d_model, 1));
    snprintf(text, sizeof text, "%s.bias", tail);
    return load_floats(&e->load, f, bias, named(&s, layer, text), &e->cfg.d_model, 1);
}

static int bind_block(struct encoder *e, const struct model_file *f, int i)
{
    struct block *b = &e->block[i];
    int64_t D = e->cfg.d_model, F = e->cfg.d_ff;
    TRY(bind_linear(e, f, i, "attention.self.query", D, D, &b->q, &b->q_b));
    TRY(bind_linear(e, f, i, "attention.self.key", D, D, &b->k, &b->k_b));
    TRY(bind_linear(e, f, i, "attention.self.value", D, D, &b->v, &b->v_b));
    TRY(bind_linear(e, f, i, "attention.output.dense", D, D, &b->o, &b->o_b));
    TRY(bind_norm(e, f, i, "attention.output.LayerNorm", &b->att_w, &b->att_b));
    TRY(bind_linear(e, f, i, "intermediate.dense", F, D, &b->up, &b->up_b));
    TRY(bind_linear(e, f, i, "output.dense", D, F, &b->down, &b->down_b));
    return bind_norm(e, f, i, "output.LayerNorm", &b->out_w, &b->out_b);
}

static int bind(struct encoder *e, const struct model_file *f)
{
    const struct model_config *c = &e->cfg;
    TRY(load_table(&e->load, f, &e->words, "roberta.embeddings.word_embeddings.weight", c->n_vocab,
                   c->d_model));
    TRY(load_table(&e->load, f, &e->positions, "roberta.embeddings.position_embeddings.weight",
                   c->max_len + POS_FIRST, c->d_model));
    TRY(load_table(&e->load, f, &e->types, "roberta.embeddings.token_type_embeddings.weight", 1, c->d_model));
    TRY(bind_norm(e, f, -1, "roberta.embeddings.LayerNorm", &e->norm_w, &e->norm_b));
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_block(e, f, i));
    return bind_linear(e, f, -1, "classifier", 2, c->d_model, &e->head, &e->head_b);
}

int encoder_open(struct encoder **out, struct ops *ops, struct model_file *f, const struct model_options *opt)
{
    *out = NULL;
    struct encoder *e = mem_alloc(1, sizeof *e);
    struct model_options o = *opt;
    e->ops = ops;
    e->cfg = f->cfg;
    e->block = mem_alloc((size_t)e->cfg.n_layer, sizeof *e->block);
    o.dtype = DT_F32;
    e->poll = o.poll;
    int rc = ops->act == DT_F32
                 ? bind(e, f)
                 : err_set(ERR_INTERNAL, "%s: encoders run on backends with f32 activations", f->path);
    if (rc == 0)
        rc = load_check(&e->load, f, NULL);
    if (rc == 0)
        rc = load_run(&e->load, f, ops, &o);
    if (rc < 0) {
        encoder_close(e);
        return rc;
    }
    *out = e;
    return 0;
}

void encoder_close(struct encoder *e)
{
    if (!e)
        return;
    load_free(&e->load, e->ops);
    free(e->block);
    free(e);
}

const struct model_config *encoder_config(const struct encoder *e)
{
    return &e->cfg;
}

size_t encoder_weight_bytes(const struct encoder *e)
{
    return e->load.bytes;
}

/* ---- forward ---- */

/* Device buffers of one call of T rows, cut from one block. */
struct bufs {
    void *block;
    struct tensor x, h, q, k, v, att; /* [T, D] */
    struct tensor mid, act;           /* [T, F] */
    struct tensor out;                /* [T, 2] */
};

static size_t padded(int64_t count)
{
    return ((size_t)count * sizeof(float) + WS_ALIGN - 1) / WS_ALIGN * WS_ALIGN;
}

static int bufs_open(struct bufs *b, const struct encoder *e, int64_t T)
{
    int64_t D = e->cfg.d_model, F = e->cfg.d_ff;
    struct tensor *const t[] = {&b->x, &b->h, &b->q, &b->k, &b->v, &b->att, &b->mid, &b->act, &b->out};
    const int64_t width[] = {D, D, D, D, D, D, F, F, 2};
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        bytes += padded(T * width[i]);
    b->block = e->ops->alloc(e->ops, bytes, MEM_WORKSPACE, PLACE_DEVICE);
    if (!b->block)
        return err_set(ERR_NOMEM, "no device memory for %" PRId64 " rows of the prompt encoder (%zu bytes)",
                       T, bytes);
    char *p = b->block;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        *t[i] = (struct tensor){p, DT_F32, {T, width[i], 1, 1}};
        p += padded(T * width[i]);
    }
    return 0;
}

/* x <- norm(word + type + position); `ids` and `pos` are host arrays of T. */
static void embed(const struct encoder *e, const struct bufs *b, const int32_t *ids, const int32_t *pos,
                  const int32_t *zero)
{
    struct ops *o = e->ops;
    o->embed(o, b->x, &e->words, ids, 1.0f);
    o->embed(o, b->h, &e->types, zero, 1.0f);
    o->add(o, b->x, b->h);
    o->embed(o, b->h, &e->positions, pos, 1.0f);
    o->add(o, b->x, b->h);
    o->layernorm(o, b->x, b->x, e->norm_w, e->norm_b, e->cfg.norm_eps);
}

static struct tensor heads(const struct encoder *e, const struct tensor *t, int64_t at, int64_t n)
{
    struct tensor r = tensor_rows(t, at, n);
    r.n[1] = e->cfg.n_head;
    r.n[2] = e->cfg.head_dim;
    return r;
}

static struct kv_run run_of(const struct tensor *t)
{
    return (struct kv_run){.layout = QUANT_NONE, .dtype = DT_F32, .data = t->data, .n = t->n[0]};
}

/* att <- every text attends to all of its own rows. */
static void attend(const struct encoder *e, const struct bufs *b, const struct encoder_text *text, int n,
                   struct attend_args *a)
{
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        int64_t T = text[i].n_ids;
        struct tensor k = heads(e, &b->k, at, T), v = heads(e, &b->v, at, T);
        a[i] = (struct attend_args){.n_set = 1,
                                    .n_kv_head = e->cfg.n_head,
                                    .scale = 1.0f / sqrtf((float)e->cfg.head_dim),
                                    .out = heads(e, &b->att, at, T)};
        struct attend_set *s = &a[i].set[0];
        s->q = heads(e, &b->q, at, T);
        s->k[0] = run_of(&k);
        s->v[0] = run_of(&v);
        s->n_k = s->n_v = 1;
        s->dist_min = -ATTEND_FAR; /* both directions */
        s->dist_max = ATTEND_FAR;
        at += T;
    }
    e->ops->attend(e->ops, a, n);
}

static void forward(const struct encoder *e, const struct bufs *b, const struct encoder_text *text, int n,
                    struct attend_args *a)
{
    struct ops *o = e->ops;
    float eps = e->cfg.norm_eps;
    for (int i = 0; i < e->cfg.n_layer; i++) {
        const struct block *y = &e->block[i];
        o->matmul(o, b->q, b->x, &y->q, y->q_b);
        o->matmul(o, b->k, b->x, &y->k, y->k_b);
        o->matmul(o, b->v, b->x, &y->v, y->v_b);
        attend(e, b, text, n, a);
        o->matmul(o, b->h, b->att, &y->o, y->o_b);
        o->add(o, b->h, b->x);
        o->layernorm(o, b->x, b->h, y->att_w, y->att_b, eps);
        o->matmul(o, b->mid, b->x, &y->up, y->up_b);
        o->gelu(o, b->act, b->mid);
        o->matmul(o, b->h, b->act, &y->down, y->down_b);
        o->add(o, b->h, b->x);
        o->layernorm(o, b->x, b->h, y->out_w, y->out_b, eps);
    }
    o->matmul(o, b->out, b->x, &e->head, e->head_b);
}

/* One call: texts of T rows together. */
static int run_some(struct encoder *e, const struct encoder_text *text, int n, int64_t T, float *logits)
{
    struct bufs b = {0};
    TRY(bufs_open(&b, e, T));
    int32_t *ids = mem_alloc((size_t)T * 3, sizeof *ids), *pos = ids + T, *zero = pos + T;
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        for (int64_t t = 0; t < text[i].n_ids; t++, at++) {
            ids[at] = text[i].ids[t];
            pos[at] = (int32_t)t + POS_FIRST;
        }
    }
    embed(e, &b, ids, pos, zero);
    forward(e, &b, text, n, a);
    e->ops->copy(e->ops, logits, b.out.data, tensor_bytes(&b.out));
    int rc = e->ops->sync(e->ops);
    e->ops->free(e->ops, b.block);
    free(ids);
    free(a);
    return rc;
}

static int check_text(const struct encoder *e, const struct encoder_text *t)
{
    if (t->n_ids > e->cfg.max_len)
        return err_set(ERR_TOO_LONG,
                       "a text of %" PRId64 " tokens exceeds the %" PRId64 " positions of the prompt encoder",
                       t->n_ids, e->cfg.max_len);
    for (int64_t i = 0; i < t->n_ids; i++)
        if (t->ids[i] < 0 || t->ids[i] >= e->cfg.n_vocab)
            return err_set(ERR_INPUT, "token id %d is outside the prompt encoder's vocabulary of %" PRId64,
                           t->ids[i], e->cfg.n_vocab);
    return 0;
}

int encoder_run(struct encoder *e, const struct encoder_text *text, int n, float *logits)
{
    for (int i = 0; i < n; i++)
        TRY(check_text(e, &text[i]));
    for (int at = 0; at < n;) {
        int64_t T = 0;
        int end = at;
        while (end < n && (end == at || T + text[end].n_ids <= ROWS_MAX))
            T += text[end++].n_ids;
        if (T > 0)
            TRY(run_some(e, text + at, end - at, T, logits));
        TRY(poll_call(&e->poll));
        logits += 2 * T;
        at = end;
    }
    return 0;
}
