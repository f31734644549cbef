#!/usr/bin/env python3
"""Small random-weight checkpoints with the logits that transformers computes for them in float32.

    python tests/oracle/model_make.py tests/fixtures/model

Every folder NAME gets config.json, safetensors (one file or shards) and expected.bin; gguf/ gets model.gguf, the
SHA-256 of every tensor as the gguf package expands it (dequant.txt, rows of q and k un-permuted) and expected.bin.
expected.bin: int32 n_prompt, n_greedy, n_vocab; int32 prompt ids, greedy ids; float32 logits [n_prompt, n_vocab].
Weights are rounded to the stored type first, so that transformers computes with exactly what the file holds.
"""
import hashlib
import json
import os
import struct
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)

N_PROMPT, N_GREEDY = 40, 8


def build(cls, cfg, seed, dtype):
    """Random weights of a size that makes attention and logits lively, rounded to `dtype`."""
    torch.manual_seed(seed)
    m = cls(cfg).float().eval()
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            elif "embed" in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(1.5 * torch.randn_like(p) / p.shape[1] ** 0.5)
            p.copy_(p.to(dtype).float())
    m.tie_weights()
    return m


def expected(m, path, seed):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, m.config.vocab_size, (1, N_PROMPT), generator=g)
    with torch.no_grad():
        logits = m(ids).logits[0].numpy()
        seq = ids
        for _ in range(N_GREEDY):
            row = m(seq).logits[0, -1]
            top = torch.sort(row, descending=True).values
            assert top[0] - top[1] > 1e-3, "greedy step too close for a test"
            seq = torch.cat([seq, row.argmax().view(1, 1)], 1)
    with open(path, "wb") as f:
        f.write(struct.pack("<3i", N_PROMPT, N_GREEDY, m.config.vocab_size))
        f.write(seq[0].numpy().astype("<i4").tobytes())
        f.write(logits.astype("<f4").tobytes())
    print(path, "logits", logits.min(), logits.max())


def weights(m, dtype):
    return {k: v.detach().to(dtype).contiguous() for k, v in m.state_dict().items()
            if not (k == "lm_head.weight" and m.config.tie_word_embeddings)}


def config_json(dir, d):
    with open(os.path.join(dir, "config.json"), "w") as f:
        json.dump(d, f, indent=1, sort_keys=True)
        f.write("\n")


def common(cfg, model_type, dtype_name):
    return {"architectures": ["X"], "model_type": model_type, "hidden_size": cfg.hidden_size,
            "intermediate_size": cfg.intermediate_size, "vocab_size": cfg.vocab_size,
            "num_hidden_layers": cfg.num_hidden_layers, "num_attention_heads": cfg.num_attention_heads,
            "num_key_value_heads": cfg.num_key_value_heads, "rms_norm_eps": cfg.rms_norm_eps,
            "max_position_embeddings": cfg.max_position_embeddings, "hidden_act": "silu", "torch_dtype": dtype_name}


def folder(root, name, cls, cfg, seed, dtype, extra, shards=1):
    dir = os.path.join(root, name)
    os.makedirs(dir, exist_ok=True)
    m = build(cls, cfg, seed, dtype)
    w = weights(m, dtype)
    config_json(dir, {**common(cfg, cfg.model_type, str(dtype).split(".")[1]), **extra})
    if shards == 1:
        save_file(w, os.path.join(dir, "model.safetensors"), metadata={"format": "pt"})
    else:
        names, wmap = sorted(w), {}
        for i in range(shards):
            part = names[i::shards]
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            save_file({k: w[k] for k in part}, os.path.join(dir, file), metadata={"format": "pt"})
            wmap.update({k: file for k in part})
        with open(os.path.join(dir, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": sum(v.nbytes for v in w.values())}, "weight_map": wmap}, f, indent=1)
            f.write("\n")
    expected(m, os.path.join(dir, "expected.bin"), seed + 1000)


# ---- GGUF ----

LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
Q = gguf.GGMLQuantizationType
TYPES = {"token_embd": Q.Q8_0, "output": Q.F16,
         "blk.0.attn_q": Q.F32, "blk.0.attn_k": Q.F16, "blk.0.attn_v": Q.BF16, "blk.0.attn_output": Q.Q8_0,
         "blk.0.ffn_gate": Q.Q4_0, "blk.0.ffn_up": Q.Q4_1, "blk.0.ffn_down": Q.BF16,
         "blk.1.attn_q": Q.Q4_1, "blk.1.attn_k": Q.Q8_0, "blk.1.attn_v": Q.Q4_0, "blk.1.attn_output": Q.Q4_1,
         "blk.1.ffn_gate": Q.Q8_0, "blk.1.ffn_up": Q.Q4_0, "blk.1.ffn_down": Q.Q4_1}


def gguf_name(hf):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
    if hf in top:
        return top[hf]
    _, _, i, rest = hf.split(".", 3)
    part, tail = rest.rsplit(".", 1)
    return f"blk.{i}.{LAYER[part]}.{tail}"


def interleave(w, heads):
    """Row p * half + i of a head becomes row 2 i + p, as llama.cpp's converter does it for llama."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)


def halves(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def llama3_divisor(rope, dim):
    f = 1.0 / rope["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
    out = []
    for x in f:
        wave, n = 2 * np.pi / x, rope["original_max_position_embeddings"]
        lo, hi = rope["low_freq_factor"], rope["high_freq_factor"]
        if wave < n / hi:
            out.append(1.0)
        elif wave > n / lo:
            out.append(rope["factor"])
        else:
            s = (n / wave - lo) / (hi - lo)
            out.append(1 / ((1 - s) / rope["factor"] + s))
    return np.array(out, np.float32)


def make_gguf(root):
    dir = os.path.join(root, "gguf")
    os.makedirs(dir, exist_ok=True)
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    cfg = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                      num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, rope_parameters=rope,
                      tie_word_embeddings=False)
    m = build(LlamaForCausalLM, cfg, 7, torch.float32)
    out = gguf.GGUFWriter(os.path.join(dir, "model.gguf"), "llama")
    out.add_context_length(512)
    out.add_embedding_length(64)
    out.add_block_count(2)
    out.add_feed_forward_length(96)
    out.add_head_count(4)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(16)
    out.add_vocab_size(300)
    out.add_tokenizer_model("gpt2")
    out.add_token_list([f"tok{i}" for i in range(300)])
    out.add_token_types([1] * 300)
    out.add_array("test.floats", [0.5, -1.25, 3.0])
    out.add_bool("test.bool", True)
    sums = []
    with torch.no_grad():
        for hf, p in m.named_parameters():
            name, w = gguf_name(hf), p.numpy()
            heads = 4 if ".q_proj" in hf else 2 if ".k_proj" in hf else 0
            stored = interleave(w, heads) if heads else w
            t = TYPES.get(name.rsplit(".", 1)[0], Q.F32)
            raw = gguf.quants.quantize(np.ascontiguousarray(stored), t)
            out.add_tensor(name, raw, raw_dtype=t)
            back = gguf.quants.dequantize(raw, t).reshape(w.shape).astype(np.float32)
            back = halves(back, heads) if heads else back
            p.copy_(torch.from_numpy(np.ascontiguousarray(back)))
            sums.append(f"{hf} {p.shape[0]} {p.shape[1] if p.dim() > 1 else 1} "
                        f"{hashlib.sha256(np.ascontiguousarray(back).astype('<f4').tobytes()).hexdigest()}")
    out.add_tensor("rope_freqs.weight", llama3_divisor(rope, 16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    with open(os.path.join(dir, "dequant.txt"), "w") as f:
        f.write("\n".join(sorted(sums)) + "\n")
    expected(m, os.path.join(dir, "expected.bin"), 1007)


def main(root):
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    base = dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512)
    folder(root, "gqa", LlamaForCausalLM,
           LlamaConfig(**base, vocab_size=300, hidden_size=64, intermediate_size=72, num_key_value_heads=2,
                       rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
                       tie_word_embeddings=True), 1, bf16,
           {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "head_dim": None, "attention_bias": False, "mlp_bias": False})
    folder(root, "linear", LlamaForCausalLM,
           LlamaConfig(**base, vocab_size=200, hidden_size=48, intermediate_size=64, num_key_value_heads=4,
                       rms_norm_eps=1e-6,
                       rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
                       tie_word_embeddings=False), 2, bf16, {"rope_scaling": {"type": "linear", "factor": 4.0}})
    l3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
    folder(root, "llama3", LlamaForCausalLM,
           LlamaConfig(**base, vocab_size=200, hidden_size=48, intermediate_size=64, num_key_value_heads=1,
                       head_dim=16, rms_norm_eps=1e-5, rope_parameters={**l3, "rope_theta": 500.0},
                       tie_word_embeddings=True), 3, f16,
           {"head_dim": 16, "rope_theta": 500.0, "rope_scaling": l3, "tie_word_embeddings": True})
    folder(root, "qwen2", Qwen2ForCausalLM,
           Qwen2Config(**base, vocab_size=300, hidden_size=32, intermediate_size=48, num_key_value_heads=2,
                       rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                       tie_word_embeddings=True, use_sliding_window=False), 4, f32,
           {"rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 128, "max_window_layers": 2,
            "tie_word_embeddings": True})
    folder(root, "mistral", MistralForCausalLM,
           MistralConfig(**{**base, "num_hidden_layers": 3}, vocab_size=200, hidden_size=48, intermediate_size=64,
                         num_key_value_heads=2, rms_norm_eps=1e-5, sliding_window=None,
                         rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), 5, bf16,
           {"rope_theta": 1000000.0, "sliding_window": None})
    folder(root, "sharded", LlamaForCausalLM,
           LlamaConfig(**base, vocab_size=200, hidden_size=32, intermediate_size=48, num_key_value_heads=2,
                       rms_norm_eps=1e-5, attention_bias=True,
                       rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), 6, f32,
           {"attention_bias": True}, shards=2)
    make_gguf(root)


if __name__ == "__main__":
    main(sys.argv[1])
