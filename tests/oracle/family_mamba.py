"""Mamba and Mamba-2: transformers' classes, and mamba-ssm's reference functions for the original layout.

mamba-ssm itself needs CUDA to build; MAMBA_SSM names the unpacked sdist (2.2.2), of which only the plain PyTorch functions
selective_scan_ref, ssd_minimal_discrete and rms_norm_ref are taken, by their text.
"""
import ast
import json
import os

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from safetensors.torch import save_file
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

from family_make import write_oracle

V, D, L = 64, 32, 3


def functions(path, names):
    """Functions of a source file by name, compiled alone."""
    tree = ast.parse(open(os.path.join(os.environ["MAMBA_SSM"], path)).read())
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    for n in tree.body:
        n.decorator_list = []
    space = {"torch": torch, "F": F, "rearrange": rearrange, "repeat": repeat}
    exec(compile(tree, path, "exec"), space)
    return [space[n] for n in names]


def randomise(m, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("A_log"):
                p.copy_(torch.log(0.05 + 4 * torch.rand_like(p)))
            elif name.endswith("dt_bias") or name.endswith("dt_proj.bias"):
                p.copy_(-3 + 2.5 * torch.rand_like(p))
            elif name.endswith(".D") or "conv1d" in name or name.endswith("bias"):
                p.copy_(0.5 * torch.randn_like(p))
            elif "embed" in name:
                p.copy_(0.5 * torch.randn_like(p))
            else:
                p.copy_(1.3 * torch.randn_like(p) / p.shape[-1] ** 0.5)
    m.tie_weights()
    return m.float().eval()


def hf(folder, cls, cfg, seed):
    m = randomise(cls(cfg), seed)
    state = {k: v.contiguous() for k, v in m.state_dict().items() if k != "lm_head.weight" or not cfg.tie_word_embeddings}
    save_file(state, os.path.join(folder, "model.safetensors"))
    json.dump(json.loads(cfg.to_json_string(use_diff=False)) | {"dtype": "float32"}, open(os.path.join(folder, "config.json"), "w"),
              indent=1, sort_keys=True)
    write_oracle(os.path.join(folder, "oracle.bin"),
                 lambda ids: m(torch.tensor([ids]), use_cache=False).logits[0].detach().numpy(), cfg.vocab_size, seed)
    return m


def mamba(folder):
    hf(folder, MambaForCausalLM, MambaConfig(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=8, time_step_rank=5,
                                             use_cache=False), 1)


def mamba2(folder):
    hf(folder, Mamba2ForCausalLM, Mamba2Config(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=16, num_heads=8,
                                               head_dim=8, n_groups=2, chunk_size=64, time_step_limit=(0.02, float("inf")),
                                               tie_word_embeddings=False), 2)


def conv(x, w, b):
    return F.silu(F.conv1d(F.pad(x.T[None], (3, 0)), w, b, groups=w.shape[0])[0].T)


def save_original(folder, state, config):
    names = {k.replace("embeddings", "embedding"): v for k, v in state.items()}
    torch.save(names, os.path.join(folder, "pytorch_model.bin"))
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1, sort_keys=True)


def run_original(state, ids, mixer):
    norm, = functions("mamba_ssm/ops/triton/layer_norm.py", ["rms_norm_ref"])
    x = state["backbone.embeddings.weight"][torch.tensor(ids)]
    for i in range(L):
        w = {k.split(f"layers.{i}.")[1]: v for k, v in state.items() if f"layers.{i}." in k}
        x = x + mixer({k.replace("mixer.", ""): v for k, v in w.items()}, norm(x, w["norm.weight"], None, eps=1e-5))
    return (norm(x, state["backbone.norm_f.weight"], None, eps=1e-5) @ state["backbone.embeddings.weight"].T).numpy()


def mamba_ms(folder):
    scan, = functions("mamba_ssm/ops/selective_scan_interface.py", ["selective_scan_ref"])
    m = randomise(MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=16)), 3)
    state = {k: v.detach() for k, v in m.state_dict().items()}

    def mixer(w, u):
        x, z = (u @ w["in_proj.weight"].T).chunk(2, -1)
        x = conv(x, w["conv1d.weight"], w["conv1d.bias"])
        R = w["dt_proj.weight"].shape[1]
        dt, B, C = torch.split(x @ w["x_proj.weight"].T, [R, 16, 16], -1)
        y = scan(x.T[None], (dt @ w["dt_proj.weight"].T).T[None], -torch.exp(w["A_log"]), B.T[None], C.T[None], w["D"], z.T[None],
                 w["dt_proj.bias"], delta_softplus=True)
        return y[0].T @ w["out_proj.weight"].T
    save_original(folder, state, {"d_model": D, "n_layer": L, "vocab_size": V - 3, "ssm_cfg": {}, "rms_norm": True,
                                  "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8})
    write_oracle(os.path.join(folder, "oracle.bin"), lambda ids: run_original(state, ids, mixer), V, 3)


def mamba2_ms(folder):
    names = ["segsum", "ssd_minimal_discrete"]
    segsum, ssd = functions("mamba_ssm/modules/ssd_minimal.py", names)
    N, P, G = 128, 64, 1
    m = randomise(Mamba2ForCausalLM(Mamba2Config(vocab_size=V, hidden_size=D, num_hidden_layers=L, state_size=N, num_heads=1,
                                                 head_dim=P, n_groups=G, tie_word_embeddings=True)), 4)
    state = {k: v.detach() for k, v in m.state_dict().items()}
    E, H = 2 * D, 1

    def mixer(w, u):
        T = u.shape[0]
        pad = -T % 64
        z, xbc, dt = torch.split(u @ w["in_proj.weight"].T, [E, E + 2 * G * N, H], -1)
        x, B, C = torch.split(conv(xbc, w["conv1d.weight"], w["conv1d.bias"]), [E, G * N, G * N], -1)
        dt = F.softplus(dt + w["dt_bias"])
        x = x.view(T, H, P)
        A = -torch.exp(w["A_log"]) * dt
        grow = lambda t: F.pad(t, (0, 0) * (t.dim() - 1) + (0, pad))[None]
        heads = lambda t: grow(t.view(T, G, N).repeat_interleave(H // G, 1))
        y, _ = ssd(grow(x * dt[..., None]), grow(A), heads(B), heads(C), 64)
        y = (y[0, :T] + w["D"][:, None] * x).reshape(T, E) * F.silu(z)
        return (y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-5) * w["norm.weight"]) @ w["out_proj.weight"].T
    save_original(folder, state, {"d_model": D, "d_intermediate": 0, "n_layer": L, "vocab_size": V - 5, "ssm_cfg": {"layer": "Mamba2"},
                                  "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True,
                                  "fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": True})
    write_oracle(os.path.join(folder, "oracle.bin"), lambda ids: run_original(state, ids, mixer), V, 4)


PARTS = {"norm": "attn_norm", "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.x_proj": "ssm_x",
         "mixer.dt_proj": "ssm_dt", "mixer.norm": "ssm_norm", "mixer.out_proj": "ssm_out"}
TOPS = {"backbone.embeddings.weight": "token_embd.weight", "backbone.norm_f.weight": "output_norm.weight",
        "lm_head.weight": "output.weight"}


def gguf_tensor(name, v, cfg):
    """Name and values as llama.cpp's converter writes them (convert_hf_to_gguf.py, MambaModel, Mamba2Model)."""
    if name in TOPS:
        return TOPS[name], v
    _, _, i, rest = name.split(".", 3)
    part, _, end = rest.rpartition(".")
    if end in ("A_log", "D"):
        v = -torch.exp(v) if end == "A_log" else v
        return f"blk.{i}.ssm_{end[0].lower()}", v.reshape(-1, 1) if cfg.model_type == "mamba2" else v
    if end == "dt_bias":
        return f"blk.{i}.ssm_dt.bias", v
    if part == "mixer.conv1d" and end == "weight":
        v = v.squeeze()
    if part == "mixer.norm":
        v = v.reshape(cfg.n_groups, -1)
    return f"blk.{i}.{PARTS[part]}.{end}", v


def as_gguf(folder, cls, cfg, seed):
    import gguf
    m = randomise(cls(cfg), seed)
    w = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), cfg.model_type)
    w.add_context_length(1 << 20)
    w.add_embedding_length(cfg.hidden_size)
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_block_count(cfg.num_hidden_layers)
    w.add_ssm_conv_kernel(cfg.conv_kernel)
    w.add_ssm_inner_size(cfg.expand * cfg.hidden_size)
    w.add_ssm_state_size(cfg.state_size)
    w.add_ssm_time_step_rank(cfg.time_step_rank if cfg.model_type == "mamba" else cfg.num_heads)
    if cfg.model_type == "mamba2":
        w.add_ssm_group_count(cfg.n_groups)
    w.add_layer_norm_rms_eps(cfg.layer_norm_epsilon)
    for name, v in m.state_dict().items():
        if not (name == "lm_head.weight" and cfg.tie_word_embeddings):
            new, v = gguf_tensor(name, v, cfg)
            w.add_tensor(new, v.contiguous().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    write_oracle(os.path.join(folder, "oracle.bin"),
                 lambda ids: m(torch.tensor([ids]), use_cache=False).logits[0].detach().numpy(), cfg.vocab_size, seed)


def mamba_gguf(folder):
    as_gguf(folder, MambaForCausalLM, MambaConfig(vocab_size=V, hidden_size=D, num_hidden_layers=2, state_size=8,
                                                  time_step_rank=5), 8)


def mamba2_gguf(folder):
    as_gguf(folder, Mamba2ForCausalLM, Mamba2Config(vocab_size=V, hidden_size=D, num_hidden_layers=2, state_size=16, num_heads=8,
                                                    head_dim=8, n_groups=2, chunk_size=64, tie_word_embeddings=True), 9)


MAKERS = {"mamba": mamba, "mamba2": mamba2, "mamba_ms": mamba_ms, "mamba2_ms": mamba2_ms, "mamba_gguf": mamba_gguf,
          "mamba2_gguf": mamba2_gguf}
