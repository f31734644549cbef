/* Names and shapes as the published checkpoints have them; sizes are the least that let every method work
 * (the quantisers' groups of 32 channels, windows shorter than the prompts). */
#include "families.h"
#include "weights.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADD(shape, spread, ...) weights_add(&w, w.type, shape, spread, __VA_ARGS__)

/* Every model has numbers of its own. */
static void begin(struct weights *w, const struct tiny_model *m, enum weight_type type)
{
    uint64_t seed = 1;
    for (const char *p = m->folder; *p; p++)
        seed = seed * 131 + (unsigned char)*p;
    weights_init(w, type, seed);
}

static int64_t up_to(int64_t n, int64_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static void write_config(const struct tiny_model *m, const char *dir, struct str *s)
{
    char *path = file_join(dir, "config.json");
    str_printf(s, "%s}\n", m->config ? m->config : "");
    if (file_write_atomic(path, s->data, s->n) < 0) {
        fprintf(stderr, "%s\n", err_text());
        exit(1);
    }
    free(path);
    str_free(s);
}

static void end(struct weights *w, const char *dir, const char *name, int state_dict)
{
    char *path = file_join(dir, name);
    if (file_ends_with(name, ".safetensors"))
        weights_safetensors(w, path);
    else
        weights_torch(w, path, state_dict ? "archive" : "tiny", state_dict);
    free(path);
    weights_free(w);
}

void make_llama(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { D = 64, F = 128, H = 4, HD = 32 };
    const int64_t V = up_to(n_vocab, 64), kv = (int64_t)m->n_kv_head * HD, q = H * HD;
    struct weights w;
    struct str config = {0};
    begin(&w, m, WEIGHT_BF16);
    ADD(SHAPE(V, D), NORMAL(0, 0.5), "model.embed_tokens.weight");
    for (int i = 0; i < m->n_layer; i++) {
        char p[32];
        snprintf(p, sizeof p, "model.layers.%d", i);
        ADD(SHAPE(D), NORMAL(1, 0.2), "%s.input_layernorm.weight", p);
        ADD(SHAPE(q, D), MATRIX(D), "%s.self_attn.q_proj.weight", p);
        ADD(SHAPE(kv, D), MATRIX(D), "%s.self_attn.k_proj.weight", p);
        ADD(SHAPE(kv, D), MATRIX(D), "%s.self_attn.v_proj.weight", p);
        ADD(SHAPE(D, q), MATRIX(q), "%s.self_attn.o_proj.weight", p);
        ADD(SHAPE(D), NORMAL(1, 0.2), "%s.post_attention_layernorm.weight", p);
        ADD(SHAPE(F, D), MATRIX(D), "%s.mlp.gate_proj.weight", p);
        ADD(SHAPE(F, D), MATRIX(D), "%s.mlp.up_proj.weight", p);
        ADD(SHAPE(D, F), MATRIX(F), "%s.mlp.down_proj.weight", p);
    }
    ADD(SHAPE(D), NORMAL(1, 0.2), "model.norm.weight");
    ADD(SHAPE(V, D), MATRIX(D), "lm_head.weight");
    str_printf(
        &config,
        "{\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
        "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, \"rms_norm_eps\": "
        "1e-05, \"hidden_act\": \"silu\", \"vocab_size\": %" PRId64
        ", \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\"",
        D, F, m->n_layer, H, m->n_kv_head, HD, V);
    write_config(m, dir, &config);
    end(&w, dir, "model.safetensors", 0);
}

/* The blocks of Mamba; A_log and D are always float32. */
static void add_mamba(struct weights *w, const struct tiny_model *m, int64_t D, int64_t N)
{
    const int64_t E = 2 * D, R = (D + 15) / 16;
    for (int i = 0; i < m->n_layer; i++) {
        char p[40];
        snprintf(p, sizeof p, "backbone.layers.%d", i);
        weights_add(w, w->type, SHAPE(D), NORMAL(1, 0.2), "%s.norm.weight", p);
        weights_add(w, WEIGHT_F32, SHAPE(E, N), UNIFORM(-3, 4.4), "%s.mixer.A_log", p);
        weights_add(w, WEIGHT_F32, SHAPE(E), NORMAL(0, 0.5), "%s.mixer.D", p);
        weights_add(w, w->type, SHAPE(2 * E, D), MATRIX(D), "%s.mixer.in_proj.weight", p);
        weights_add(w, w->type, SHAPE(E, 1, 4), NORMAL(0, 0.5), "%s.mixer.conv1d.weight", p);
        weights_add(w, w->type, SHAPE(E), NORMAL(0, 0.5), "%s.mixer.conv1d.bias", p);
        weights_add(w, w->type, SHAPE(R + 2 * N, E), MATRIX(E), "%s.mixer.x_proj.weight", p);
        weights_add(w, w->type, SHAPE(E, R), MATRIX(R), "%s.mixer.dt_proj.weight", p);
        weights_add(w, w->type, SHAPE(E), UNIFORM(-3, 2.5), "%s.mixer.dt_proj.bias", p);
        weights_add(w, w->type, SHAPE(D, E), MATRIX(E), "%s.mixer.out_proj.weight", p);
    }
    weights_add(w, w->type, SHAPE(D), NORMAL(1, 0.2), "backbone.norm_f.weight");
}

void make_mamba(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { D = 48, N = 16 };
    const int64_t V = up_to(n_vocab, 8);
    struct weights w;
    struct str config = {0};
    begin(&w, m, WEIGHT_F32);
    ADD(SHAPE(V, D), NORMAL(0, 0.5), "backbone.embeddings.weight");
    add_mamba(&w, m, D, N);
    str_printf(
        &config,
        "{\"model_type\": \"mamba\", \"hidden_size\": %d, \"num_hidden_layers\": %d, \"state_size\": %d, "
        "\"conv_kernel\": 4, \"expand\": 2, \"intermediate_size\": %d, \"time_step_rank\": %d, \"use_bias\": "
        "false, \"use_conv_bias\": true, \"hidden_act\": \"silu\", \"layer_norm_epsilon\": 1e-05, "
        "\"residual_in_fp32\": true, \"vocab_size\": %" PRId64 ", \"torch_dtype\": \"float32\"",
        D, m->n_layer, N, 2 * D, (D + 15) / 16, V);
    write_config(m, dir, &config);
    end(&w, dir, "model.safetensors", 0);
}

/* config.json of mamba_ssm; the embedding's rows follow from vocab_size and the multiple. */
static void ssm_config(const struct tiny_model *m, const char *dir, int d_model, int64_t n_vocab,
                       int multiple, const char *ssm_cfg)
{
    struct str config = {0};
    str_printf(
        &config,
        "{\"d_model\": %d, \"n_layer\": %d, \"vocab_size\": %" PRId64
        ", \"ssm_cfg\": {%s}, \"rms_norm\": true, \"residual_in_fp32\": true, \"fused_add_norm\": true, "
        "\"pad_vocab_size_multiple\": %d",
        d_model, m->n_layer, n_vocab, ssm_cfg, multiple);
    write_config(m, dir, &config);
}

void make_mamba_ssm(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { D = 48, N = 16 };
    struct weights w;
    begin(&w, m, WEIGHT_F16);
    ADD(SHAPE(up_to(n_vocab, 8), D), NORMAL(0, 0.5), "backbone.embedding.weight");
    add_mamba(&w, m, D, N);
    weights_alias(&w, "lm_head.weight", "backbone.embedding.weight");
    ssm_config(m, dir, D, n_vocab, 8, "");
    end(&w, dir, "pytorch_model.bin", 1);
}

void make_mamba2(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { D = 64, E = 2 * D, P = 64, H = E / P, N = 128, C = E + 2 * N };
    struct weights w;
    begin(&w, m, WEIGHT_F16);
    ADD(SHAPE(up_to(n_vocab, 16), D), NORMAL(0, 0.5), "backbone.embedding.weight");
    for (int i = 0; i < m->n_layer; i++) {
        char p[40];
        snprintf(p, sizeof p, "backbone.layers.%d", i);
        ADD(SHAPE(D), NORMAL(1, 0.2), "%s.norm.weight", p);
        ADD(SHAPE(H), UNIFORM(-3, 2.5), "%s.mixer.dt_bias", p);
        ADD(SHAPE(H), UNIFORM(-3, 4.4), "%s.mixer.A_log", p);
        weights_add(&w, WEIGHT_F32, SHAPE(H), NORMAL(0, 0.5), "%s.mixer.D", p);
        ADD(SHAPE(E + C + H, D), MATRIX(D), "%s.mixer.in_proj.weight", p);
        ADD(SHAPE(C, 1, 4), NORMAL(0, 0.5), "%s.mixer.conv1d.weight", p);
        ADD(SHAPE(C), NORMAL(0, 0.5), "%s.mixer.conv1d.bias", p);
        ADD(SHAPE(E), NORMAL(1, 0.2), "%s.mixer.norm.weight", p);
        ADD(SHAPE(D, E), MATRIX(E), "%s.mixer.out_proj.weight", p);
    }
    ADD(SHAPE(D), NORMAL(1, 0.2), "backbone.norm_f.weight");
    weights_alias(&w, "lm_head.weight", "backbone.embedding.weight");
    ssm_config(m, dir, D, n_vocab, 16, "\"layer\": \"Mamba2\"");
    end(&w, dir, "pytorch_model.bin", 1);
}

static void add_rwkv_attention(struct weights *w, const char *p, int64_t H, int64_t S)
{
    static const char *const mix[] = {"k", "v", "r", "g"};
    static const char *const matrix[] = {"receptance", "key", "value", "gate", "output"};
    const int64_t C = H * S;
    for (int k = 0; k < 4; k++)
        weights_add(w, w->type, SHAPE(1, 1, C), UNIFORM(0, 1), "%s.att.time_mix_%s", p, mix[k]);
    weights_add(w, w->type, SHAPE(H, S), NORMAL(-2, 2), "%s.att.time_decay", p);
    weights_add(w, w->type, SHAPE(H, S), NORMAL(0, 0.5), "%s.att.time_faaaa", p);
    for (int k = 0; k < 5; k++)
        weights_add(w, w->type, SHAPE(C, C), MATRIX(C), "%s.att.%s.weight", p, matrix[k]);
}

static void add_layer_norm(struct weights *w, int64_t C, const char *name)
{
    weights_add(w, w->type, SHAPE(C), NORMAL(1, 0.2), "%s.weight", name);
    weights_add(w, w->type, SHAPE(C), NORMAL(0, 0.2), "%s.bias", name);
}

void make_rwkv5(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { H = 2, S = 32, C = H * S, F = 7 * C / 2 };
    static const char *const norms[] = {"ln1", "ln2", "att.ln_x"};
    const int64_t V = up_to(n_vocab, 64);
    struct weights w;
    begin(&w, m, WEIGHT_BF16);
    ADD(SHAPE(V, C), NORMAL(0, 0.5), "emb.weight");
    add_layer_norm(&w, C, "blocks.0.ln0");
    for (int i = 0; i < m->n_layer; i++) {
        char p[24], name[48];
        snprintf(p, sizeof p, "blocks.%d", i);
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "%s.%s", p, norms[k]);
            add_layer_norm(&w, C, name);
        }
        add_rwkv_attention(&w, p, H, S);
        ADD(SHAPE(1, 1, C), UNIFORM(0, 1), "%s.ffn.time_mix_k", p);
        ADD(SHAPE(1, 1, C), UNIFORM(0, 1), "%s.ffn.time_mix_r", p);
        ADD(SHAPE(F, C), MATRIX(C), "%s.ffn.key.weight", p);
        ADD(SHAPE(C, C), MATRIX(C), "%s.ffn.receptance.weight", p);
        ADD(SHAPE(C, F), MATRIX(F), "%s.ffn.value.weight", p);
    }
    add_layer_norm(&w, C, "ln_out");
    ADD(SHAPE(V, C), MATRIX(C), "head.weight");
    end(&w, dir, "tiny.pth", 0);
}

static void add_linear(struct weights *w, int64_t n_out, int64_t n_in, const char *p, const char *name)
{
    weights_add(w, w->type, SHAPE(n_out, n_in), MATRIX(n_in), "%s.%s.weight", p, name);
    weights_add(w, w->type, SHAPE(n_out), NORMAL(0, 0.1), "%s.%s.bias", p, name);
}

static void add_recurrent(struct weights *w, const char *p, int64_t D, int64_t H)
{
    static const char *const gates[] = {"input", "recurrent"};
    const int64_t B = D / H; /* channels of a block of the gates */
    add_linear(w, D, D, p, "temporal_block.linear_x");
    add_linear(w, D, D, p, "temporal_block.linear_y");
    add_linear(w, D, D, p, "temporal_block.linear_out");
    weights_add(w, w->type, SHAPE(D, 1, 4), NORMAL(0, 0.5), "%s.temporal_block.conv_1d.weight", p);
    weights_add(w, w->type, SHAPE(D), NORMAL(0, 0.1), "%s.temporal_block.conv_1d.bias", p);
    weights_add(w, w->type, SHAPE(D), UNIFORM(-6, 3), "%s.temporal_block.rg_lru.recurrent_param", p);
    for (int k = 0; k < 2; k++) {
        weights_add(w, w->type, SHAPE(H, B, B), MATRIX(B), "%s.temporal_block.rg_lru.%s_gate_weight", p,
                    gates[k]);
        weights_add(w, w->type, SHAPE(H, B), NORMAL(0, 0.1), "%s.temporal_block.rg_lru.%s_gate_bias", p,
                    gates[k]);
    }
}

void make_griffin(const struct tiny_model *m, const char *dir, int64_t n_vocab)
{
    enum { D = 64, H = 2, HD = D / H, F = 96 };
    const int64_t V = up_to(n_vocab, 64), kv = (int64_t)m->n_kv_head * HD;
    struct weights w;
    struct str config = {0};
    begin(&w, m, WEIGHT_BF16);
    ADD(SHAPE(V, D), NORMAL(0, 0.2), "model.embed_tokens.weight");
    for (int i = 0; i < m->n_layer; i++) {
        char p[32];
        snprintf(p, sizeof p, "model.layers.%d", i);
        ADD(SHAPE(D), NORMAL(0, 0.2), "%s.temporal_pre_norm.weight", p);
        ADD(SHAPE(D), NORMAL(0, 0.2), "%s.channel_pre_norm.weight", p);
        if (i % 3 == 2) {
            ADD(SHAPE(D, D), MATRIX(D), "%s.temporal_block.q_proj.weight", p);
            ADD(SHAPE(kv, D), MATRIX(D), "%s.temporal_block.k_proj.weight", p);
            ADD(SHAPE(kv, D), MATRIX(D), "%s.temporal_block.v_proj.weight", p);
            add_linear(&w, D, D, p, "temporal_block.o_proj");
        } else {
            add_recurrent(&w, p, D, H);
        }
        add_linear(&w, F, D, p, "mlp_block.gate_proj");
        add_linear(&w, F, D, p, "mlp_block.up_proj");
        add_linear(&w, D, F, p, "mlp_block.down_proj");
    }
    ADD(SHAPE(D), NORMAL(0, 0.2), "model.final_norm.weight");
    str_printf(
        &config,
        "{\"model_type\": \"recurrent_gemma\", \"hidden_size\": %d, \"intermediate_size\": %d, "
        "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": "
        "%d, "
        "\"lru_width\": null, \"attention_window_size\": 128, \"conv1d_width\": 4, \"logits_soft_cap\": "
        "30.0, "
        "\"rms_norm_eps\": 1e-06, \"hidden_activation\": \"gelu_pytorch_tanh\", \"partial_rotary_factor\": "
        "0.5, "
        "\"rope_theta\": 10000.0, \"attention_bias\": false, \"vocab_size\": %" PRId64
        ", \"block_types\": [\"recurrent\", \"recurrent\", \"attention\"], \"torch_dtype\": \"bfloat16\"",
        D, 2 * F, m->n_layer, H, m->n_kv_head, HD, V);
    write_config(m, dir, &config);
    end(&w, dir, "model.safetensors", 0);
}
