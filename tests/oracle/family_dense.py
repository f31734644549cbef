"""Models of the llama family that its first fixtures (model_make.py) do not cover: Qwen3, Qwen2.5 with YaRN, Llama 3.2's rope
scaling, windows of Mistral and Qwen2; Qwen3 and YaRN as GGUF files too, as llama.cpp's converter writes them."""
import json
import os

import gguf
import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

from family_make import ROWS, write_oracle
from model_make import LAYER, build

V, WINDOW = 64, 24
SIZES = dict(vocab_size=V, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=4096, attn_implementation="eager")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e6}
LLAMA32 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192, "rope_theta": 500000.0}
EDGES = sorted(ROWS + [WINDOW - 2, WINDOW - 1, WINDOW])


def qwen3():
    return Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16, rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
                                         tie_word_embeddings=True), 21


def yarn():
    return Qwen2ForCausalLM, Qwen2Config(**{**SIZES, "hidden_size": 64}, rope_parameters=dict(YARN), tie_word_embeddings=False), 22


def llama32():
    return LlamaForCausalLM, LlamaConfig(**{**SIZES, "hidden_size": 64}, head_dim=32, rope_parameters=dict(LLAMA32), tie_word_embeddings=True), 23


def mistral():
    return MistralForCausalLM, MistralConfig(**SIZES, sliding_window=WINDOW), 24


def qwen2_window():
    return Qwen2ForCausalLM, Qwen2Config(**{**SIZES, "num_hidden_layers": 4}, use_sliding_window=True, sliding_window=WINDOW,
                                         max_window_layers=2), 25


def oracle(folder, m, seed):
    write_oracle(os.path.join(folder, "oracle.bin"), lambda ids: m(torch.tensor([ids]), use_cache=False).logits[0].detach().numpy(),
                 V, seed, rows=EDGES)


def tensors(m, cfg):
    return {k: v.detach().contiguous() for k, v in m.state_dict().items() if k != "lm_head.weight" or not cfg.tie_word_embeddings}


def as_folder(what):
    def make(folder):
        cls, cfg, seed = what()
        m = build(cls, cfg, seed, torch.float32)
        save_file(tensors(m, cfg), os.path.join(folder, "model.safetensors"))
        keys = {**json.loads(cfg.to_json_string(use_diff=False)), "dtype": "float32"}
        if "max_window_layers" in keys:
            del keys["layer_types"]  # as published files have it: max_window_layers says which
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(keys, f, indent=1, sort_keys=True)
            f.write("\n")
        oracle(folder, m, seed)
    return make


NAMES = {**LAYER, "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
TOPS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in TOPS:
        return TOPS[name]
    _, _, i, rest = name.split(".", 3)
    part, _, end = rest.rpartition(".")
    return f"blk.{i}.{NAMES[part]}.{end}"


def as_gguf(what):
    """TextModel.set_gguf_parameters of llama.cpp's conversion; rows of q and k are not permuted for these architectures."""
    def make(folder):
        cls, cfg, seed = what()
        m = build(cls, cfg, seed, torch.float32)
        w = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), cfg.model_type)
        w.add_block_count(cfg.num_hidden_layers)
        w.add_context_length(cfg.max_position_embeddings)
        w.add_embedding_length(cfg.hidden_size)
        w.add_feed_forward_length(cfg.intermediate_size)
        w.add_head_count(cfg.num_attention_heads)
        w.add_head_count_kv(cfg.num_key_value_heads)
        rope = cfg.rope_parameters
        if rope["rope_type"] == "yarn":
            w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            w.add_rope_scaling_factor(rope["factor"])
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        w.add_rope_freq_base(rope["rope_theta"])
        w.add_layer_norm_rms_eps(cfg.rms_norm_eps)
        if cfg.model_type == "qwen3":
            w.add_key_length(cfg.head_dim)
            w.add_value_length(cfg.head_dim)
        w.add_file_type(gguf.LlamaFileType.ALL_F32)
        w.add_tokenizer_model("gpt2")
        w.add_token_list([f"tok{i}" for i in range(V)])
        w.add_token_types([1] * V)
        for name, v in tensors(m, cfg).items():
            w.add_tensor(gguf_name(name), v.numpy())
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        oracle(folder, m, seed)
    return make


MAKERS = {"qwen3": as_folder(qwen3), "qwen2_yarn": as_folder(yarn), "llama32": as_folder(llama32),
          "mistral_window": as_folder(mistral), "qwen2_window": as_folder(qwen2_window),
          "qwen3_gguf": as_gguf(qwen3), "qwen2_yarn_gguf": as_gguf(yarn)}
