#!/usr/bin/env python3
"""make_model.py SHAPE DIR: a Llama of random weights (8b: the shape of Llama-3-8B; small: 1/16 of it; tiny: two layers) as
bf16 safetensors, with the tokenizer of the tests' tiny model (prompts of the benches are token ids). Every tensor is made
on the GPU, if there is one, and copied straight into the mapped file: nothing is held twice."""
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

SHAPES = {  # d_model, layers, heads, kv heads, d_ff, vocabulary
    "8b": (4096, 32, 32, 8, 14336, 128256),
    "small": (1024, 16, 16, 4, 3584, 32000),
    "tiny": (256, 2, 4, 2, 512, 4000),
}


def config_of(shape):
    D, n_layer, H, Hk, F, V = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": D, "intermediate_size": F,
        "num_hidden_layers": n_layer, "num_attention_heads": H, "num_key_value_heads": Hk, "head_dim": D // H,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "vocab_size": V,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 0,
    }


def tensors_of(shape):
    D, n_layer, H, Hk, F, V = SHAPES[shape]
    d = D // H
    out = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for i in range(n_layer):
        p = f"model.layers.{i}."
        out |= {p + "input_layernorm.weight": (D,), p + "post_attention_layernorm.weight": (D,),
                p + "self_attn.q_proj.weight": (H * d, D), p + "self_attn.k_proj.weight": (Hk * d, D),
                p + "self_attn.v_proj.weight": (Hk * d, D), p + "self_attn.o_proj.weight": (D, H * d),
                p + "mlp.gate_proj.weight": (F, D), p + "mlp.up_proj.weight": (F, D), p + "mlp.down_proj.weight": (D, F)}
    return out


def header_of(tensors):
    at, entries = 0, {"__metadata__": {"format": "pt"}}
    for name, n in tensors.items():
        end = at + 2 * torch.Size(n).numel()
        entries[name] = {"dtype": "BF16", "shape": list(n), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, entries, at


def write(path, tensors):
    head, entries, n_bytes = header_of(tensors)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file = torch.from_file(path, shared=True, size=len(head) + n_bytes, dtype=torch.uint8)
    file[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)

    def fill(i, name, n):
        a, b = (len(head) + x for x in entries[name]["data_offsets"])
        place = file[a:b].view(torch.bfloat16).view(n)
        if len(n) == 1:
            place.fill_(1)
        else:
            g = torch.Generator(device).manual_seed(7 + i)
            place.copy_(torch.randn(n, device=device, dtype=torch.bfloat16, generator=g) * n[1] ** -0.5)

    with ThreadPoolExecutor(8) as pool:  # most of the time goes into the pages of the file
        for f in [pool.submit(fill, i, *t) for i, t in enumerate(tensors.items())]:
            f.result()
    return n_bytes


def main(shape, out):
    os.makedirs(out, exist_ok=True)
    part = os.path.join(out, "part")
    if os.path.exists(part):
        os.remove(part)
    n_bytes = write(part, tensors_of(shape))
    os.rename(part, os.path.join(out, "model.safetensors"))
    shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures/tiny/tokenizer.json"), out)
    with open(os.path.join(out, "config.json"), "w") as f:  # last: a folder with it is whole
        json.dump(config_of(shape), f)
    print(f"{n_bytes / 1e9:.1f} GB in {out}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
