"""Gemma 3 by transformers: text alone with settings per layer type and in older configurations' keys, as part of a model that
sees images, and as llama.cpp's converter writes GGUF. Heads are no part of the width, and the scalar is not their size."""
import json
import os

import torch
from safetensors.torch import save_file
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

from family_make import write_oracle

V, W = 64, 24
ROWS = [0, 1, 2, 4, 22, 23, 24, 63, 99, 299, 699]  # around the window, and several of them
SIZES = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": W, "max_position_embeddings": 4096}
F, S = "full_attention", "sliding_attention"


def randomise(m, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in m.named_parameters():
            rnd = torch.randn(p.shape, generator=g)
            small = "norm" in name or name.endswith("bias") or "embed" in name
            p.copy_((0.3 if small else 1.3 / p.shape[-1] ** 0.5) * rnd)
    m.tie_weights()
    return m.float().eval()


def oracle(folder, m, seed):
    write_oracle(os.path.join(folder, "oracle.bin"),
                 lambda ids: m(torch.tensor([ids]), use_cache=False).logits[0].detach().numpy(), V, seed, rows=ROWS)


def save(folder, m, config):
    state = {k: v.contiguous() for k, v in m.state_dict().items() if k != "lm_head.weight"}
    save_file(state, os.path.join(folder, "model.safetensors"))
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1, sort_keys=True)


def text(folder):
    """As transformers 5 writes it: layer_types and rope_parameters per layer type; the pattern is no regular one."""
    cfg = Gemma3TextConfig(**SIZES, layer_types=[S, F, S, S, F],
                           rope_parameters={F: {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                                            S: {"rope_type": "default", "rope_theta": 5e3}})
    m = randomise(Gemma3ForCausalLM(cfg), 21)
    save(folder, m, json.loads(cfg.to_json_string(use_diff=False)) | {"dtype": "float32"})
    oracle(folder, m, 21)


def old(folder):
    """As published with version 4.50: sliding_window_pattern, rope_theta, rope_local_base_freq, rope_scaling."""
    own = SIZES | {"model_type": "gemma3_text", "sliding_window_pattern": 3, "rope_theta": 1e6, "rope_local_base_freq": 2e4,
                   "rope_scaling": {"factor": 4.0, "rope_type": "linear"}, "torch_dtype": "float32"}
    m = randomise(Gemma3ForCausalLM(Gemma3TextConfig(**{k: v for k, v in own.items() if k not in ("model_type", "torch_dtype")})), 22)
    save(folder, m, own)
    oracle(folder, m, 22)


def images(folder):
    """The published layout of the models that see images: text_config with what differs from the class, language_model.model.*"""
    inner = SIZES | {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window_pattern": 2}
    cfg = Gemma3Config(text_config=dict(inner), mm_tokens_per_image=4,
                       vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                                      "image_size": 28, "patch_size": 14})
    m = randomise(Gemma3ForConditionalGeneration(cfg), 23)
    state = {}
    for k, v in m.state_dict().items():
        if k != "lm_head.weight":
            k = k.replace("model.language_model.", "language_model.model.") if "language" in k else k.removeprefix("model.")
            state[k] = v.contiguous()
    save_file(state, os.path.join(folder, "model.safetensors"))
    json.dump({"model_type": "gemma3", "text_config": inner, "vision_config": {"model_type": "siglip_vision_model"},
               "torch_dtype": "float32"}, open(os.path.join(folder, "config.json"), "w"), indent=1, sort_keys=True)
    oracle(folder, m, 23)


PARTS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.o_proj": "attn_output",
         "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_feedforward_layernorm": "post_ffw_norm"}


def as_gguf(folder):
    """llama.cpp's converter (Gemma3Model) adds 1 to every norm; it has no key for the scalar, which is the size of a head."""
    import gguf
    cfg = Gemma3TextConfig(**(SIZES | {"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "intermediate_size": 32}),
                           rope_parameters={F: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                            S: {"rope_type": "default", "rope_theta": 1e4}})
    m = randomise(Gemma3ForCausalLM(cfg), 24)
    w = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), "gemma3")
    w.add_context_length(cfg.max_position_embeddings)
    w.add_embedding_length(cfg.hidden_size)
    w.add_block_count(cfg.num_hidden_layers)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_head_count(cfg.num_attention_heads)
    w.add_head_count_kv(cfg.num_key_value_heads)
    w.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    w.add_key_length(cfg.head_dim)
    w.add_value_length(cfg.head_dim)
    w.add_rope_freq_base(1e6)
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(8.0)
    w.add_sliding_window(W)
    for name, v in m.state_dict().items():
        if name == "lm_head.weight":
            continue
        v = v + 1 if "norm" in name else v
        if name.startswith("model.layers."):
            _, _, i, rest = name.split(".", 3)
            part, _, end = rest.rpartition(".")
            name = f"blk.{i}.{PARTS[part]}.{end}"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        w.add_tensor(name, v.contiguous().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    oracle(folder, m, 24)


MAKERS = {"gemma3": text, "gemma3_old": old, "gemma3_images": images, "gemma3_gguf": as_gguf}
