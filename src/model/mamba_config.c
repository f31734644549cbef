/* Keys, shapes and costs of Mamba and Mamba-2. Two layouts: transformers' (model_type mamba, mamba2; defaults
 * of its classes), and the original of state-spaces/mamba, whose config.json has no model_type but d_model,
 * n_layer and ssm_cfg (mamba_ssm/models/config_mamba.py, modules/mamba_simple.py, modules/mamba2.py). */
#include "base/err.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/mamba.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

const char mamba_embed[] = "backbone.embeddings.weight";
const struct name_pair mamba_aliases[] = {{"backbone.embedding.weight", mamba_embed}, {NULL, NULL}};

static bool is_original(const struct config_reader *r)
{
    return r->has(r, "d_model") == READER_GIVEN && r->has(r, "n_layer") == READER_GIVEN;
}

/* The type that an original config.json stands for, NULL if it is none. */
static const char *original_type(const struct config_reader *r)
{
    const char *layer = NULL;
    if (!is_original(r) || r->text(r, "ssm_cfg.layer", &layer) < 0)
        return NULL;
    return layer && !strcmp(layer, "Mamba2") ? "mamba2" : "mamba";
}

const char *mamba_claims(const struct config_reader *r)
{
    const char *type = original_type(r);
    return type && !strcmp(type, "mamba") ? type : NULL;
}

const char *mamba2_claims(const struct config_reader *r)
{
    const char *type = original_type(r);
    return type && !strcmp(type, "mamba2") ? type : NULL;
}

static int must_be(const struct config_reader *r, const char *key, bool def, bool wanted)
{
    bool v;
    TRY(r->flag(r, key, def, &v));
    return v == wanted ? 0
                       : err_set(ERR_INPUT, "%s: '%s' is %s, which is not supported", r->path,
                                 r->name(r, key), v ? "true" : "false");
}

static int count(const struct config_reader *r, const char *key, int64_t def, int64_t max, int64_t *out)
{
    return r->integer(r, key, def, 1, max, out);
}

/* What both families have in transformers' layout. */
static int read_common(struct model_config *c, const struct config_reader *r, struct mamba_config *w,
                       int64_t vocab, int64_t width, int64_t layers, int64_t states)
{
    const bool d = r->hf; /* transformers' defaults */
    int64_t n, conv;
    double eps;
    const char *act = NULL;
    char shown[80];
    TRY(r->text(r, "hidden_act", &act));
    if (act && strcmp(act, "silu") != 0)
        return err_set(ERR_INPUT, "%s: hidden_act '%s' is not supported (silu is)", r->path,
                       file_shown(shown, act));
    TRY(count(r, "hidden_size", d ? width : -1, 1 << 20, &c->d_model));
    TRY(count(r, "num_hidden_layers", d ? layers : -1, SHAPE_LAYERS, &n));
    TRY(count(r, "vocab_size", d ? vocab : -1, 1 << 24, &c->n_vocab));
    TRY(count(r, "state_size", d ? states : -1, 256, &w->N));
    TRY(r->integer(r, "conv_kernel", 4, 2, 8, &conv));
    TRY(r->real(r, "layer_norm_epsilon", 1e-5, &eps));
    TRY(r->flag(r, "use_bias", false, &w->bias));
    TRY(r->flag(r, "use_conv_bias", true, &w->conv_bias));
    c->n_layer = (int32_t)n;
    c->norm_eps = (float)eps;
    w->conv = (int32_t)conv;
    return r->dtype(r, c);
}

/* The original layout; what the checkpoints of state-spaces do not use is refused. */
static int read_original(struct model_config *c, const struct config_reader *r, struct mamba_config *w,
                         int64_t states)
{
    int64_t n, pad, conv, inner;
    const char *layer = NULL, *attention;
    char shown[80];
    TRY(r->text(r, "ssm_cfg.layer", &layer));
    if (layer && strcmp(layer, "Mamba1") != 0 && strcmp(layer, "Mamba2") != 0)
        return err_set(ERR_INPUT, "%s: ssm_cfg.layer '%s' is not supported (Mamba1, Mamba2 are)", r->path,
                       file_shown(shown, layer));
    TRY(must_be(r, "rms_norm", true, true));
    TRY(r->integer(r, "d_intermediate", 0, 0, 0, &inner));
    TRY(r->item(r, "attn_layer_idx", 0, &attention));
    if (attention)
        return err_set(ERR_INPUT,
                       "%s: 'attn_layer_idx': layers of attention are not supported in this family", r->path);
    TRY(count(r, "d_model", -1, 1 << 20, &c->d_model));
    TRY(count(r, "n_layer", -1, SHAPE_LAYERS, &n));
    TRY(count(r, "vocab_size", -1, 1 << 24, &c->n_vocab));
    TRY(count(r, "pad_vocab_size_multiple", 8, 1 << 16, &pad));
    TRY(count(r, "ssm_cfg.d_state", states, 256, &w->N));
    TRY(r->integer(r, "ssm_cfg.d_conv", 4, 2, 8, &conv));
    TRY(r->flag(r, "ssm_cfg.bias", false, &w->bias));
    TRY(r->flag(r, "ssm_cfg.conv_bias", true, &w->conv_bias));
    TRY(r->flag(r, "tie_embeddings", true, &c->tied));
    c->n_vocab = (c->n_vocab + pad - 1) / pad * pad;
    c->n_layer = (int32_t)n;
    c->norm_eps = 1e-5f; /* in no key: mixer_seq_simple.py */
    w->conv = (int32_t)conv;
    c->dtype = DT_F32; /* the weights correct it */
    return 0;
}

/* A whole number, or "auto" (absent: the same). */
static int read_rank(const struct config_reader *r, const char *key, int64_t def, int64_t *out)
{
    const char *word = NULL;
    TRY(r->text(r, key, &word));
    *out = def;
    return word && !strcmp(word, "auto") ? 0 : count(r, key, def, 1 << 20, out);
}

int mamba_read(struct model_config *c, const struct config_reader *r)
{
    struct mamba_config *w = mamba_own(c);
    const bool original = is_original(r);
    int64_t expand = 2;
    TRY(original ? read_original(c, r, w, 16) : read_common(c, r, w, 50280, 768, 32, 16));
    if (!original)
        TRY(r->flag(r, "tie_word_embeddings", true, &c->tied));
    TRY(count(r, original ? "ssm_cfg.expand" : "expand", 2, 64, &expand));
    w->E = expand * c->d_model;
    if (!original)
        TRY(count(r, "intermediate_size", w->E, 1 << 22, &w->E));
    if (!r->hf &&
        !r->sketch) /* Falcon-Mamba's norms over the step, b and c have no weights that would be left over */
        TRY(must_be(r, "dt_b_c_rms", false, false));
    TRY(read_rank(r, original ? "ssm_cfg.dt_rank" : "time_step_rank", (c->d_model + 15) / 16, &w->R));
    c->max_len = INT32_MAX;
    return 0;
}

static int read_limits(const struct config_reader *r, const char *key, struct mamba_config *w)
{
    double lo, hi;
    TRY(r->number(r, key, 0, 0, &lo));
    TRY(r->number(r, key, 1, 1.7e308, &hi));
    if (!(lo >= 0) || !(hi > lo))
        return err_set(ERR_INPUT, "%s: '%s' must be two rising numbers from 0", r->path, key);
    w->dt_min = (float)lo;
    w->dt_max = hi > 3e38 ? INFINITY : (float)hi;
    return 0;
}

static int refuse_variants(const struct config_reader *r)
{
    TRY(must_be(r, "ssm_cfg.rmsnorm", true, true));
    TRY(must_be(r, "ssm_cfg.norm_before_gate", false, false));
    TRY(must_be(r, "ssm_cfg.D_has_hdim", false, false));
    if (r->has(r, "ssm_cfg.d_ssm") == READER_GIVEN)
        return err_set(ERR_INPUT, "%s: 'ssm_cfg.d_ssm' is not supported", r->path);
    return 0;
}

int mamba2_read(struct model_config *c, const struct config_reader *r)
{
    struct mamba_config *w = mamba_own(c);
    const bool original = is_original(r);
    int64_t expand = 2;
    TRY(original ? read_original(c, r, w, 128) : read_common(c, r, w, 32768, 4096, 64, 128));
    TRY(count(r, original ? "ssm_cfg.expand" : "expand", 2, 64, &expand));
    w->E = expand * c->d_model;
    if (original) {
        TRY(refuse_variants(r));
        TRY(count(r, "ssm_cfg.headdim", 64, 4096, &w->P));
        TRY(count(r, "ssm_cfg.ngroups", 1, 4096, &w->G));
        w->H = w->E / w->P;
    } else {
        TRY(r->flag(r, "tie_word_embeddings", false, &c->tied));
        TRY(must_be(r, "rms_norm", true, true));
        TRY(count(r, "intermediate_size", w->E, 1 << 22, &w->E)); /* GGUF has it, config.json does not */
        TRY(count(r, "num_heads", r->hf ? 128 : -1, 1 << 16, &w->H));
        TRY(count(r, "head_dim", w->E / w->H, 4096, &w->P));
        TRY(count(r, "n_groups", r->hf ? 8 : 1, 4096, &w->G));
    }
    TRY(read_limits(r, original ? "ssm_cfg.dt_limit" : "time_step_limit", w));
    if (w->H * w->P != w->E || w->H % w->G)
        return err_set(ERR_INPUT,
                       "%s: %" PRId64 " heads of %" PRId64 " channels in %" PRId64
                       " groups do not share %" PRId64 " channels evenly",
                       r->path, w->H, w->P, w->G, w->E);
    c->max_len = INT32_MAX;
    return 0;
}

void mamba_describe(const struct model_config *c, struct str *out)
{
    const struct mamba_config *w = mamba_of(c);
    str_printf(out,
               "inner %" PRId64 " states %" PRId64 " rank %" PRId64 " heads %" PRId64 " %" PRId64
               " groups %" PRId64 " conv %d step %.9g %.9g bias %d %d\n",
               w->E, w->N, w->R, w->H, w->P, w->G, w->conv, (double)w->dt_min, (double)w->dt_max, w->bias,
               w->conv_bias);
}

static void recurrent(struct seq_shape *s, int32_t n_layer, int32_t conv, int64_t columns,
                      const struct state_array *ssm)
{
    const struct layer_kind k = {
        .mixer = MIX_RECURRENT, .n_state = 2, .state = {{"conv_tail", DT_F32, {conv - 1, columns, 1}}, *ssm}};
    shape_alike(s, n_layer, &k);
    s->max_len = INT32_MAX; /* there are no positions */
}

void mamba_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct mamba_config *w = mamba_of(c);
    recurrent(s, c->n_layer, w->conv, w->E, &(struct state_array){"ssm", DT_F32, {w->E, w->N, 1}});
}

void mamba2_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct mamba_config *w = mamba_of(c);
    recurrent(s, c->n_layer, w->conv, mamba2_columns(w),
              &(struct state_array){"ssm", DT_F32, {w->H, w->P, w->N}});
}

void mamba_cost(const struct model_config *c, struct model_cost *cost)
{
    const struct mamba_config *w = mamba_of(c);
    const int64_t D = c->d_model, L = c->n_layer;
    *cost = (struct model_cost){.product = {{"x,z", 2 * w->E, D, L},
                                            {"step,b,c", w->R + 2 * w->N, w->E, L},
                                            {"step", w->E, w->R, L},
                                            {"out", D, w->E, L},
                                            {"head", c->n_vocab, D, 1}},
                                .n_product = 5,
                                .head = 4};
}

void mamba2_cost(const struct model_config *c, struct model_cost *cost)
{
    const struct mamba_config *w = mamba_of(c);
    const int64_t D = c->d_model, L = c->n_layer;
    *cost = (struct model_cost){.product = {{"z,x,b,c,step", w->E + mamba2_columns(w) + w->H, D, L},
                                            {"out", D, w->E, L},
                                            {"head", c->n_vocab, D, 1}},
                                .n_product = 3,
                                .head = 2};
}

/* As llama.cpp's converter names and reshapes them (convert_hf_to_gguf.py, Mamba and Mamba2; gguf-py
 * tensor_mapping.py). */
static const struct name_pair keys[] = {{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"},
                                        {"ssm.conv_kernel", "conv_kernel"},
                                        {"ssm.inner_size", "intermediate_size"},
                                        {"ssm.state_size", "state_size"},
                                        {"ssm.time_step_rank", "time_step_rank"},
                                        {"ssm.dt_b_c_rms", "dt_b_c_rms"},
                                        {NULL, NULL}};
static const struct name_pair keys2[] = {{"attention.layer_norm_rms_epsilon", "layer_norm_epsilon"},
                                         {"ssm.conv_kernel", "conv_kernel"},
                                         {"ssm.inner_size", "intermediate_size"},
                                         {"ssm.state_size", "state_size"},
                                         {"ssm.time_step_rank", "num_heads"},
                                         {"ssm.group_count", "n_groups"},
                                         {NULL, NULL}};
static const struct name_pair top_names[] = {{"token_embd.weight", mamba_embed},
                                             {"output_norm.weight", "backbone.norm_f.weight"},
                                             {"output.weight", "lm_head.weight"},
                                             {NULL, NULL}};
static const struct name_pair layer_parts[] = {{"attn_norm", "norm"},          {"ssm_in", "mixer.in_proj"},
                                               {"ssm_conv1d", "mixer.conv1d"}, {"ssm_x", "mixer.x_proj"},
                                               {"ssm_dt", "mixer.dt_proj"},    {"ssm_a", "mixer.A_log"},
                                               {"ssm_d", "mixer.D"},           {"ssm_norm", "mixer.norm"},
                                               {"ssm_out", "mixer.out_proj"},  {NULL, NULL}};
const struct gguf_names mamba_gguf = {keys, top_names, layer_parts, "backbone.layers", NULL};
const struct gguf_names mamba2_gguf = {keys2, top_names, layer_parts, "backbone.layers", NULL};
