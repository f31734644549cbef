"""Check a dump of flexgen or flexgen-upstream (`kvsweep logits --dump-qkv`, float32) against the oracle.

  flexgen_check_dump.py DUMP.h5 MODEL_DIR

1. Codes, scales and minima of every layer from the dumped K (after RoPE) and V: identical.
2. The whole forward pass: the oracle attends to the dumped q, k, v of each layer, the residual stream is
   rebuilt from the embeddings with MODEL_DIR's other weights, and the logits that come out are compared with
   the dumped ones. Greedy tokens must be equal wherever the top-2 gap exceeds 1e-3.

Why not two independent runs: codes of keys and values that lie at a rounding border depend on the last bits of
a float32 sum. A change of relative size e flips about e of the codes, each by a whole step s, which is a
change of sqrt(e * s) for the next layer: float32's last bits grow to the size of the quantisation error within
a few layers. `--noise E` shows it: the oracle's own run with the embeddings changed by E (relative) is compared
with its run without.

  flexgen_check_dump.py --noise 1e-7 MODEL_DIR --prompt IDS.json
"""
import argparse
import json
import sys

import h5py
import numpy as np
import torch
from transformers import LlamaForCausalLM

import flexgen_oracle as fo

torch.set_num_threads(1)
GAP = 1e-3


def rotate(x, theta):
    n, _, d = x.shape
    inv = 1.0 / (theta ** (torch.arange(0, d, 2, dtype=torch.int64).float() / d))
    a = torch.outer(torch.arange(n).float(), inv)
    c, s = (torch.cat([t, t], -1)[:, None] for t in (a.cos(), a.sin()))
    return x * c + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * s


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float16).view(np.uint16), np.asarray(b, np.float16).view(np.uint16))


def layer_of(upstream, cfg, d, group):
    make = fo.FlexGenLayer if upstream else fo.SimLayer
    extra = {"own16": False} if upstream else {}
    return make(cfg.num_attention_heads, cfg.num_key_value_heads, d, group, **extra)


def rest_of_layer(lay, h, attended):
    h = h + lay.self_attn.o_proj(attended.reshape(h.shape[0], -1))
    return h + lay.mlp(lay.post_attention_layernorm(h))


def check(args):
    f, m = h5py.File(args.dump), LlamaForCausalLM.from_pretrained(args.model, torch_dtype=torch.float32)
    method = f.attrs["method"]
    method = method.decode() if isinstance(method, bytes) else str(method)
    upstream = method.startswith("flexgen-upstream")
    at = f["qkv"].attrs
    L, d, theta = int(at["n_prompt"]), int(at["head_dim"]), float(at["rope_theta"])
    ids, logits = torch.from_numpy(f["ids"][()].astype(np.int64)), torch.from_numpy(f["logits"][()])
    n_codes = n_bad = 0
    with torch.no_grad():
        h = m.model.embed_tokens(ids)
        for i, lay in enumerate(m.model.layers):
            q, k, v = (torch.from_numpy(f[f"qkv/layer_{i:02d}/{x}"][()]) for x in ("q", "k_rope", "v"))
            kv, T = f[f"kv/layer_{i:02d}"], q.shape[0]
            oracle = layer_of(upstream, m.config, d, d // kv["k_scale"].shape[2])
            out = fo.run(oracle, rotate(q, theta), k, v, L)["f32"]
            for c in "kv":
                got, want = kv[f"{c}_codes"][()], getattr(oracle, f"{c}_codes").numpy()
                n_codes += want.size
                n_bad += want.size if got.shape != want.shape else int((got != want).sum())
                n_bad += sum(not same_bits(kv[f"{c}_{x}"][()], getattr(oracle, f"{c}_{x}")) for x in ("scale", "min"))
            h = rest_of_layer(lay, h[:T], out)
        want = m.lm_head(m.model.norm(h[L - 1:]))
    top = want.topk(2).values
    gap, n = top[:, 0] - top[:, 1], want.shape[0]
    differ = (want.argmax(-1) != logits[:n].argmax(-1)) & (gap > GAP)
    r = {"method": method, "codes": n_codes, "codes_differ": n_bad, "steps": n, "clear_steps": int((gap > GAP).sum()),
         "tokens_differ": int(differ.sum()), "max_logit_error": float((want - logits[:n]).abs().max()),
         "logit_range": float(want.max() - want.min()), "min_gap": float(gap.min())}
    print(json.dumps(r))
    return n_bad == 0 and not differ.any()


def forward(m, ids, make, noise):
    """Logits of every prompt row of a quantised prompt pass; embeddings changed by `noise` (relative)."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        h = m.model.embed_tokens(ids)
        h = h * (1 + noise * torch.randn(h.shape, generator=g))
        n, cfg = len(ids), m.config
        d = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
        theta = cfg.rope_parameters["rope_theta"] if getattr(cfg, "rope_parameters", None) else cfg.rope_theta
        for lay in m.model.layers:
            x, s = lay.input_layernorm(h), lay.self_attn
            q, k = s.q_proj(x).view(n, -1, d), s.k_proj(x).view(n, -1, d)
            out = make(cfg, d).prompt(rotate(q, theta), rotate(k, theta), s.v_proj(x).view(n, -1, d))["f32"]
            h = rest_of_layer(lay, h, out)
        return m.lm_head(m.model.norm(h))


def noise(args):
    m = LlamaForCausalLM.from_pretrained(args.dump, torch_dtype=torch.float32)
    ids = torch.tensor(json.load(open(args.prompt)))
    for name, make in (("plain (flexgen-upstream)", lambda cfg, d: layer_of(True, cfg, d, 32)), ("flexgen", lambda cfg, d: layer_of(False, cfg, d, 32))):
        a, b = forward(m, ids, make, 0.0), forward(m, ids, make, args.noise)
        print(json.dumps({"prompt_pass": name, "noise": args.noise, "max_logit_change": float((a - b).abs().max()),
                          "rms_logit_change": float((a - b).pow(2).mean().sqrt())}))
    return True


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("dump")
    ap.add_argument("model", nargs="?")
    ap.add_argument("--noise", type=float)
    ap.add_argument("--prompt")
    args = ap.parse_args()
    return 0 if (noise(args) if args.noise else check(args)) else 1


if __name__ == "__main__":
    sys.exit(main())
