/* Keys, shape and cost of RecurrentGemma. Layouts of transformers 4 (block_types, rope keys at the top) and 5
 * (layer_types, rope_parameters). Windows are Google's, with which the models were trained: a query sees the
 * W keys before its own and its own (recurrentgemma/torch/modules.py); transformers 5.24 sees one less. */
#include "base/err.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/griffin.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

/* Which layers attend: a pattern that repeats, or one word per layer. */
static int read_pattern(const struct config_reader *r, const struct model_config *c, struct griffin_config *w)
{
    static const char *const keys[] = {"layer_types", "block_types", "_block_types"};
    static const uint8_t usual[] = {0, 0, 1};
    const char *key = NULL, *s;
    uint8_t pattern[SHAPE_LAYERS];
    char shown[80];
    int64_t n = 0;
    for (int i = 0; i < 3 && !key; i++)
        key = r->has(r, keys[i]) == READER_GIVEN ? keys[i] : NULL;
    for (; key && n < SHAPE_LAYERS; n++) {
        TRY(r->item(r, key, n, &s));
        if (!s)
            break;
        pattern[n] = !strcmp(s, "attention") || !strcmp(s, "sliding_attention");
        if (!pattern[n] && strcmp(s, "recurrent") != 0 && strcmp(s, "linear_attention") != 0)
            return err_set(ERR_INPUT, "%s: %s[%" PRId64 "] is '%s'; recurrent and attention are supported",
                           r->path, key, n, file_shown(shown, s));
    }
    if (n == 0)
        memcpy(pattern, usual, (size_t)(n = 3));
    for (int32_t i = 0; i < c->n_layer; i++)
        w->attention[i] = pattern[i % n];
    return 0;
}

static int read_sizes(const struct config_reader *r, struct model_config *c, struct griffin_config *w)
{
    int64_t n, heads, kv, dim, conv, wide;
    TRY(r->integer(r, "hidden_size", r->hf ? 2560 : -1, 1, 1 << 20, &c->d_model));
    TRY(r->integer(r, "num_hidden_layers", r->hf ? 26 : -1, 1, SHAPE_LAYERS, &n));
    TRY(r->integer(r, "num_attention_heads", r->hf ? 10 : -1, 1, 4096, &heads));
    TRY(r->integer(r, "num_key_value_heads", heads, 1, heads, &kv));
    TRY(r->integer(r, "head_dim", c->d_model / heads, 1, 4096, &dim));
    TRY(r->integer(r, "intermediate_size", r->hf ? 3 * c->d_model * 2 : -1, 2, 1 << 23,
                   &wide)); /* of both halves */
    TRY(r->integer(r, "lru_width", c->d_model, 1, 1 << 20, &w->Lw));
    TRY(r->integer(r, "attention_window_size", 2048, 1, 1 << 30, &w->W));
    TRY(r->integer(r, "conv1d_width", 4, 2, 8, &conv));
    TRY(r->integer(r, "vocab_size", r->hf ? 256000 : -1, 1, 1 << 24, &c->n_vocab));
    c->n_layer = (int32_t)n;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    c->d_ff = wide / 2;
    w->conv = (int32_t)conv;
    return 0;
}

static int check_sizes(const struct model_config *c, const struct griffin_config *w, const char *path)
{
    if (c->n_head % c->n_kv_head == 0 && w->Lw % c->n_head == 0 && c->head_dim % 4 == 0)
        return 0;
    return err_set(ERR_INPUT,
                   "%s: %d heads of %d, %d key/value heads and lru_width %" PRId64 " do not go together",
                   path, c->n_head, c->head_dim, c->n_kv_head, w->Lw);
}

/* Half of each head is rotated; what else a file says is refused (absent keys have the class's 0.5). */
static int read_rope(const struct config_reader *r, struct model_config *c)
{
    static const char *const keys[] = {"partial_rotary_factor", "rope_parameters.partial_rotary_factor"};
    double partial;
    TRY(r->rope(r, c, NULL, &c->rope[0]));
    for (int i = 0; i < 2; i++) {
        TRY(r->real(r, keys[i], 0.5, &partial));
        if (partial != 0.5)
            return err_set(ERR_INPUT, "%s: '%s' is %g, which is not supported (0.5 is)", r->path, keys[i],
                           partial);
    }
    return c->rope[0].scaling == ROPE_PLAIN
               ? 0
               : err_set(ERR_INPUT, "%s: rope scaling is not supported for this model_type", r->path);
}

int griffin_read(struct model_config *c, const struct config_reader *r)
{
    struct griffin_config *w = griffin_own(c);
    double eps, cap;
    TRY(reader_only(r, "hidden_activation", "gelu_pytorch_tanh"));
    TRY(reader_not(r, "attention_bias"));
    TRY(read_sizes(r, c, w));
    TRY(read_pattern(r, c, w));
    TRY(r->real(r, "rms_norm_eps", 1e-6, &eps));
    TRY(r->real(r, "logits_soft_cap", 30, &cap));
    c->max_len = INT32_MAX;
    TRY(read_rope(r, c));
    c->norm_eps = (float)eps;
    w->cap = (float)cap;
    c->tied = true;
    TRY(r->dtype(r, c));
    return check_sizes(c, w, r->path);
}

void griffin_describe(const struct model_config *c, struct str *out)
{
    const struct griffin_config *w = griffin_of(c);
    str_printf(out, "window %" PRId64 " width %" PRId64 " conv %d cap %.9g layers ", w->W, w->Lw, w->conv,
               (double)w->cap);
    for (int32_t i = 0; i < c->n_layer; i++)
        str_addc(out, w->attention[i] ? 'a' : 'r');
    str_addc(out, '\n');
}

struct layer_kind griffin_kind(const struct model_config *c)
{
    struct layer_kind k = kind_attention(c->n_head, c->n_kv_head, c->head_dim, griffin_of(c)->W + 1);
    k.n_rot = c->head_dim / 2;
    return k;
}

void griffin_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct griffin_config *w = griffin_of(c);
    const struct layer_kind recurrent = {
        .mixer = MIX_RECURRENT,
        .n_state = 2,
        .state = {{"conv_tail", DT_F32, {w->conv - 1, w->Lw, 1}}, {"lru", DT_F32, {w->Lw, 1, 1}}}};
    *s = (struct seq_shape){
        .n_layer = c->n_layer, .n_kind = 2, .kind = {recurrent, griffin_kind(c)}, .max_len = INT32_MAX};
    memcpy(s->kind_of, w->attention, (size_t)c->n_layer);
}

const struct param griffin_params[] = {
    {"attention_mask", PARAM_CHOICE, offsetof(struct griffin_params, attention_mask), 0, 0, 1,
     "correct|hf_bug", NULL,
     "hf_bug: as transformers 4.40 to 4.57 do, a long prompt's rows see its last keys alone, and an answer "
     "one "
     "key less than the model was trained with"},
    {0},
};

/* transformers 4.40.2 models/recurrent_gemma/modeling_recurrent_gemma.py, RecurrentGemmaSdpaAttention: it
 * cuts the prompt's keys to the last W and keeps the mask's first W columns. */
void griffin_apply(const struct model_config *c, struct seq_shape *s)
{
    const struct griffin_params *o = (const struct griffin_params *)(const void *)s->options.v;
    if (o->attention_mask != GRIFFIN_MASK_HF_BUG)
        return;
    s->kind[1].window = griffin_of(c)->W;
    s->kind[1].last_window = true;
    s->whole_prompt = true;
}

void griffin_cost(const struct model_config *c, struct model_cost *cost)
{
    const struct griffin_config *w = griffin_of(c);
    const int64_t D = c->d_model, F = c->d_ff, Lw = w->Lw, L = c->n_layer, block = Lw / c->n_head,
                  q = (int64_t)c->n_head * c->head_dim, kv = (int64_t)c->n_kv_head * c->head_dim;
    int64_t n = 0;
    for (int64_t i = 0; i < L; i++)
        n += w->attention[i];
    *cost = (struct model_cost){.product = {{"x,y", 2 * Lw, D, L - n},
                                            {"gates", block, block, 2 * c->n_head * (L - n)},
                                            {"out", D, Lw, L - n},
                                            {"q,k,v", q + 2 * kv, D, n},
                                            {"o", D, q, n},
                                            {"gate,up", 2 * F, D, L},
                                            {"down", D, F, L},
                                            {"head", c->n_vocab, D, 1}},
                                .n_product = 8,
                                .head = 7};
}
