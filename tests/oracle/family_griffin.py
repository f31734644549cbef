"""RecurrentGemma in transformers' layout, with the logits of Google's package `recurrentgemma` 1.0.1 (torch): windows of W + 1
keys, as the models were trained. Only its PyTorch half is loaded, so that JAX is not needed."""
import json
import os
import site
import sys
import types

import torch
from safetensors.torch import save_file

from family_make import write_oracle

ROWS = [0, 1, 2, 4, 22, 23, 24, 63, 99, 299, 699]  # around the window of 24, and several of them
NAMES = {"embedder.input_embedding": "model.embed_tokens.weight", "final_norm.scale": "model.final_norm.weight"}
PARTS = {"temporal_pre_norm.scale": "temporal_pre_norm.weight", "channel_pre_norm.scale": "channel_pre_norm.weight",
         "mlp_block.ffw_down.": "mlp_block.down_proj.", "recurrent_block.linear_": "temporal_block.linear_",
         "recurrent_block.conv_1d.b": "temporal_block.conv_1d.bias", "recurrent_block.rg_lru.a_param": "temporal_block.rg_lru.recurrent_param",
         "attention_block.proj_q.": "temporal_block.q_proj.", "attention_block.proj_k.": "temporal_block.k_proj.",
         "attention_block.proj_v.": "temporal_block.v_proj.", "attention_block.proj_final.": "temporal_block.o_proj."}


def package():
    if "recurrentgemma" not in sys.modules:
        root = types.ModuleType("recurrentgemma")
        root.__path__ = [os.path.join(p, "recurrentgemma") for p in site.getsitepackages()]
        sys.modules["recurrentgemma"] = root
    from recurrentgemma import common
    from recurrentgemma.torch import griffin
    return common, griffin


def hf_names(name, v):
    """Google's parameter -> Hugging Face's names and tensors."""
    if name in NAMES:
        return {NAMES[name]: v}
    _, i, rest = name.split(".", 2)
    at = f"model.layers.{i}."
    gate = at + "temporal_block.rg_lru."
    if rest == "mlp_block.ffw_up.w":
        return {at + "mlp_block.gate_proj.weight": v[0].T, at + "mlp_block.up_proj.weight": v[1].T}
    if rest == "mlp_block.ffw_up.b":
        return {at + "mlp_block.gate_proj.bias": v[0].reshape(-1), at + "mlp_block.up_proj.bias": v[1].reshape(-1)}
    if rest == "recurrent_block.conv_1d.w":
        return {at + "temporal_block.conv_1d.weight": v.T[:, None]}
    for a, b in (("input_gate", "input_gate"), ("a_gate", "recurrent_gate")):
        if rest.startswith(f"recurrent_block.rg_lru.{a}."):
            return {gate + b + ("_weight" if rest.endswith("w") else "_bias"): v}
    for a, b in PARTS.items():
        if rest.startswith(a):
            return {at + b + rest[len(a):]: v}
    raise KeyError(name)


def make(folder):
    common, griffin = package()
    V, D, H, F, W, L = 64, 32, 2, 40, 24, 5
    R, A = common.TemporalBlockType.RECURRENT, common.TemporalBlockType.ATTENTION
    cfg = common.GriffinConfig(vocab_size=V, width=D, mlp_expanded_width=F, num_heads=H, lru_width=D, block_types=(R, R, A, R, R),
                               embeddings_scale_by_sqrt_dim=True, attention_window_size=W, logits_soft_cap=30.0,
                               scan_type=common.ScanType.AUTO)
    m = griffin.Griffin(cfg, gradient_checkpointing=False, dtype=torch.float32).eval()
    g = torch.Generator().manual_seed(7)
    state = {}
    with torch.no_grad():
        for name, p in m.named_parameters():
            rnd = torch.randn(p.shape, generator=g)
            if name.endswith("a_param"):
                p.copy_(0.7 * rnd - 1)
            elif name.endswith((".b", "bias", "scale")):
                p.copy_(0.3 * rnd)
            elif "embedding" in name:
                p.copy_(0.3 * rnd)
            elif "conv_1d" in name:
                p.copy_(0.5 * rnd)
            else:
                fan = p.shape[-2] if name.endswith(".w") else p.shape[-1]
                p.copy_(1.3 * rnd / fan ** 0.5)
            state.update({k: v.contiguous() for k, v in hf_names(name, p.detach().clone()).items()})
    save_file(state, os.path.join(folder, "model.safetensors"))
    json.dump({"model_type": "recurrent_gemma", "hidden_size": D, "intermediate_size": 2 * F, "num_hidden_layers": L,
               "num_attention_heads": H, "num_key_value_heads": 1, "head_dim": D // H, "lru_width": D, "attention_window_size": W,
               "conv1d_width": 4, "logits_soft_cap": 30.0, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh",
               "partial_rotary_factor": 0.5, "rope_theta": 10000.0, "vocab_size": V, "attention_bias": False,
               "block_types": ["recurrent", "recurrent", "attention"], "torch_dtype": "float32"},
              open(os.path.join(folder, "config.json"), "w"), indent=1, sort_keys=True)

    def logits_of(ids):
        out, _ = m(torch.tensor([ids]), torch.arange(len(ids))[None], None, return_cache=False)
        return out[0].numpy()
    write_oracle(os.path.join(folder, "oracle.bin"), logits_of, V, 7, rows=ROWS)


MAKERS = {"griffin": make}
