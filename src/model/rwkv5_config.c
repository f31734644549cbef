/* Sizes of RWKV-5.2. Its .pth files hold tensors alone, and everything follows from their shapes (package
 * rwkv, model.py); Hugging Face's layout is not read. */
#include "base/err.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/rwkv5.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For plans: `shape` of a model file. A folder of Hugging Face's is refused. */
int rwkv5_read(struct model_config *c, const struct config_reader *r)
{
    struct rwkv5_config *w = rwkv5_own(c);
    int64_t n;
    if (!r->sketch)
        return err_set(
            ERR_INPUT,
            "%s: RWKV-5 in the layout of transformers is not supported; take the .pth file that it was "
            "made from",
            r->path);
    TRY(r->integer(r, "hidden_size", -1, 1, 1 << 20, &c->d_model));
    TRY(r->integer(r, "num_hidden_layers", -1, 1, SHAPE_LAYERS, &n));
    TRY(r->integer(r, "intermediate_size", -1, 1, 1 << 22, &c->d_ff));
    TRY(r->integer(r, "vocab_size", -1, 1, 1 << 24, &c->n_vocab));
    TRY(r->integer(r, "head_size", 64, 1, 128, &w->S));
    TRY(r->dtype(r, c));
    if (c->d_model % w->S)
        return err_set(ERR_INPUT, "%s: hidden_size %" PRId64 " is no multiple of head_size %" PRId64, r->path,
                       c->d_model, w->S);
    w->H = c->d_model / w->S;
    c->n_layer = (int32_t)n;
    c->max_len = INT32_MAX;
    return 0;
}

static bool has(const struct model_file *f, const char *name)
{
    return file_tensor_find(f, name) != NULL;
}

/* Other versions have other tensors, as the package tells them apart. */
static int refuse_versions(const struct model_file *f, const struct file_tensor *decay)
{
    const char *version = NULL;
    if (has(f, "blocks.0.att.time_maa_k") || has(f, "blocks.0.att.time_maa_x"))
        version = "6";
    else if (has(f, "blocks.0.att.x_r"))
        version = "7";
    else if (!has(f, "blocks.0.att.ln_x.weight"))
        version = "4";
    else if (!has(f, "blocks.0.att.gate.weight"))
        version = "5.0";
    else if (!decay || decay->t.n_dim != 2 || decay->t.n[1] < 2)
        version = "5.1";
    return version ? err_set(ERR_INPUT, "%s: RWKV version %s is not supported (5.2 is)", f->path, version)
                   : 0;
}

static int32_t count_layers(const struct model_file *f)
{
    int32_t n = 0;
    for (int i = 0; i < f->n; i++) {
        int k;
        if (sscanf(f->t[i].name, "blocks.%6d.", &k) == 1 && k >= n)
            n = k + 1;
    }
    return n;
}

int rwkv5_read_tensors(struct model_config *c, const struct model_file *f)
{
    struct rwkv5_config *w = rwkv5_own(c);
    const struct file_tensor *embed = file_tensor_find(f, "emb.weight"),
                             *key = file_tensor_find(f, "blocks.0.ffn.key.weight"),
                             *head = file_tensor_find(f, "head.weight"),
                             *decay = file_tensor_find(f, "blocks.0.att.time_decay");
    if (!embed || !key || !head || key->t.n_dim != 2 || head->t.n_dim != 2)
        return 0;
    TRY(refuse_versions(f, decay));
    c->n_layer = count_layers(f);
    w->H = decay->t.n[0];
    w->S = decay->t.n[1];
    c->d_ff = key->t.n[0];
    c->n_vocab = head->t.n[0];
    if (c->n_layer > SHAPE_LAYERS || w->S > 128 || w->H < 1 || w->H > 4096)
        return err_set(ERR_INPUT,
                       "%s: %d blocks of %" PRId64 " heads of %" PRId64 " channels are not supported",
                       f->path, c->n_layer, w->H, w->S);
    c->d_model = w->H * w->S;
    c->max_len = INT32_MAX;
    c->norm_eps = 1e-5f;
    return 1;
}

void rwkv5_describe(const struct model_config *c, struct str *out)
{
    str_printf(out, "heads %" PRId64 " %" PRId64 "\n", rwkv5_of(c)->H, rwkv5_of(c)->S);
}

void rwkv5_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct rwkv5_config *w = rwkv5_of(c);
    const struct layer_kind k = {.mixer = MIX_RECURRENT,
                                 .n_state = 3,
                                 .state = {{"att_prev", DT_F32, {c->d_model, 1, 1}},
                                           {"ffn_prev", DT_F32, {c->d_model, 1, 1}},
                                           {"wkv", DT_F32, {w->H, w->S, w->S}}}};
    shape_alike(s, c->n_layer, &k);
    s->max_len = INT32_MAX; /* there are no positions */
}

void rwkv5_cost(const struct model_config *c, struct model_cost *cost)
{
    const int64_t C = c->d_model, F = c->d_ff, L = c->n_layer;
    *cost = (struct model_cost){.product = {{"r,k,v,gate", 4 * C, C, L},
                                            {"output", C, C, L},
                                            {"ffn key", F, C, L},
                                            {"ffn value", C, F, L},
                                            {"ffn receptance", C, C, L},
                                            {"head", c->n_vocab, C, 1}},
                                .n_product = 6,
                                .head = 5};
}
