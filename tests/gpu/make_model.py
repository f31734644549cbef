#!/usr/bin/env python3
"""make_model.py SHAPE DIR: a Llama of random weights (8b: the shape of Llama-3-8B; small: 1/16 of it) as bf16
safetensors, with the tokenizer of the tests' tiny model (prompts of the benches are token ids)."""
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

SHAPES = {  # d_model, layers, heads, kv heads, d_ff, vocabulary
    "8b": (4096, 32, 32, 8, 14336, 128256),
    "small": (1024, 16, 16, 4, 3584, 32000),
}
D, n_layer, H, Hk, F, V = SHAPES[sys.argv[1]]
out = sys.argv[2]
os.makedirs(out, exist_ok=True)
d = D // H
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(7)


def matrix(rows, cols):
    return (torch.randn(rows, cols, device=device, dtype=torch.bfloat16) * cols**-0.5).cpu()


def layer(i):
    p = f"model.layers.{i}."
    one = torch.ones(D, dtype=torch.bfloat16)
    return {
        p + "input_layernorm.weight": one,
        p + "post_attention_layernorm.weight": one.clone(),
        p + "self_attn.q_proj.weight": matrix(H * d, D),
        p + "self_attn.k_proj.weight": matrix(Hk * d, D),
        p + "self_attn.v_proj.weight": matrix(Hk * d, D),
        p + "self_attn.o_proj.weight": matrix(D, H * d),
        p + "mlp.gate_proj.weight": matrix(F, D),
        p + "mlp.up_proj.weight": matrix(F, D),
        p + "mlp.down_proj.weight": matrix(D, F),
    }


tensors = {"model.embed_tokens.weight": matrix(V, D), "lm_head.weight": matrix(V, D)}
tensors["model.norm.weight"] = torch.ones(D, dtype=torch.bfloat16)
for i in range(n_layer):
    tensors.update(layer(i))
save_file(tensors, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": F,
    "num_hidden_layers": n_layer, "num_attention_heads": H, "num_key_value_heads": Hk, "head_dim": d,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "vocab_size": V,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 0,
}
shutil.copy(os.path.join(os.path.dirname(__file__), "../fixtures/tiny/tokenizer.json"), out)
json.dump(config, open(os.path.join(out, "config.json"), "w"))
print(f"{sum(t.numel() for t in tensors.values()) * 2 / 1e9:.1f} GB in {out}")
