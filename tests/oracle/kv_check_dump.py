"""Compare a program's dumped KIVI cache with the oracle, layer by layer.

  kv_check_dump.py DUMP.h5 [--bits N] [--layers 0,5] [--k-tol 0.005] [--rope-style half|interleaved]

Input, written by the program (HDF5):
  /qkv            attributes n_prompt, rope_theta (f64), head_dim, n_head, n_kv_head;
                  optional: rope_linear_factor (f64, positions are divided by it),
                  rope_style ("half": channel i pairs with i + d/2, the default;
                  "interleaved": 2i pairs with 2i + 1, as in GGUF llama weights)
  /qkv/layer_NN/q       f32 [n_tokens, H, d]    before RoPE; prompt rows, then one per step
  /qkv/layer_NN/k, v    f32 [n_tokens, Hk, d]   K before RoPE
  /qkv/layer_NN/k_rope  optional, f32 [n_tokens, Hk, d]: K after the program's own RoPE.
                        With it the K comparison must be exact; without it the RoPE is
                        redone here and the fp16 rounding of a few K may differ by one bit.
  /kv             attributes bits, group, residual (32 and 128 if absent)
  /kv/layer_NN/   state after the last step, [token or token group, head, channel or channel group]:
    k_codes u8, k_scale, k_min f16; v_codes u8, v_scale, v_min f16; k_window, v_window (newest tokens)
  A dataset may carry the attribute "axes": a permutation of "htc" (head, token or token
  group, channel or channel group) saying in which order its axes are; default "thc".
  Codes may be packed along their last stored axis: attribute "packed" = bits, first code
  in the low bits of a byte.  An empty part may be left out.

Output: one line per layer, exit status 1 if a layer fails.
Fails: token counts or windows differ; any V code, scale or min differs; K differs in more
than --k-tol of its codes or by more than one step anywhere; K scale or min by more than
--ulp fp16 steps (default 2).  With k_rope, K has to be exact as well.
"""
import argparse
import sys

import h5py
import numpy as np
import torch

import kivi_oracle

torch.set_num_threads(1)


def rope(x, theta, style, factor=1.0):
    """x [n, Hk, d] at positions 0..n-1; angles in double, rotation in float32."""
    n, _, d = x.shape
    inv = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d) / factor
    ang = torch.outer(torch.arange(n, dtype=torch.float64), inv)
    c, s = ang.cos().float()[:, None], ang.sin().float()[:, None]
    y = torch.empty_like(x)
    if style == "half":
        a, b = x[..., :d // 2], x[..., d // 2:]
        y[..., :d // 2], y[..., d // 2:] = a * c - b * s, b * c + a * s
    else:
        a, b = x[..., 0::2], x[..., 1::2]
        y[..., 0::2], y[..., 1::2] = a * c - b * s, b * c + a * s
    return y


def get(group, name, bits=None):
    """Dataset as [head, token, channel] numpy array, or None."""
    if name not in group:
        return None
    ds = group[name]
    a = ds[()]
    if int(ds.attrs.get("packed", 8)) != 8:
        b = int(ds.attrs["packed"])
        a = np.stack([(a >> (b * i)) & (2 ** b - 1) for i in range(8 // b)], -1).reshape(*a.shape[:-1], -1)
    axes = ds.attrs.get("axes", "thc")
    axes = axes.decode() if isinstance(axes, bytes) else str(axes)
    return np.transpose(a, [axes.index(x) for x in "htc"])


def ulp(a, b):
    """Distance in fp16 steps; -0 and +0 are the same."""
    def key(x):
        i = np.ascontiguousarray(x, np.float16).view(np.int16).astype(np.int32)
        return np.where(i < 0, -(i & 0x7FFF), i)
    return np.abs(key(a) - key(b))


def compare(name, want, got, ulps):
    """(number of differing entries, largest difference, error text or '')."""
    want = want.numpy()
    if got is None:
        return (0, 0, "") if want.size == 0 else (want.size, 0, f"{name} missing")
    if got.shape != want.shape:
        if want.size == 0 and got.size == 0:
            return 0, 0, ""
        return want.size, 0, f"{name} shape {got.shape}, expected {want.shape}"
    if want.size == 0:
        return 0, 0, ""
    d = ulp(want, got) if ulps else np.abs(want.astype(int) - got.astype(int))
    return int((d != 0).sum()), int(d.max()), ""


def check_layer(kv, qkv, at, bits, group, residual, args):
    f = lambda n: torch.from_numpy(np.asarray(qkv[n][()], np.float32))
    v = f("v")
    exact = "k_rope" in qkv
    k = f("k_rope") if exact else rope(f("k"), at["theta"], args.rope_style or at["style"], at["factor"])
    n, L = v.shape[0], at["n_prompt"]
    lay = kivi_oracle.KiviLayer(at["H"], at["Hk"], at["d"], bits, group, residual, want_ref=False)
    lay.prompt(k[:L], v[:L])
    q0 = torch.zeros(at["H"], at["d"])               # the state does not depend on the queries
    for t in range(L, n):
        lay.step(q0, k[t], v[t])
    errors, notes = [], []
    held = [kv[w].shape[0] if w in kv else 0 for w in ("k_window", "v_window")]
    if held != [n - lay.nkq, n - lay.nvq]:
        errors.append(f"windows hold {held} tokens, expected {[n - lay.nkq, n - lay.nvq]}")
    for name, ulps in (("k_codes", 0), ("k_scale", 1), ("k_min", 1), ("k_win", 1),
                       ("v_codes", 0), ("v_scale", 1), ("v_min", 1), ("v_win", 1)):
        got = get(kv, name.replace("_win", "_window"))
        want = getattr(lay, name)
        bad, worst, err = compare(name, want, got, ulps)
        if err:
            errors.append(err)
            continue
        notes.append(f"{name} {bad}/{want.numel()}" + (f"(max {worst})" if bad else ""))
        if name[0] == "v" or exact:
            limit = bad == 0
        elif name == "k_codes":
            limit = bad <= args.k_tol * want.numel() and worst <= 1
        else:
            limit = worst <= args.ulp
        if not limit:
            errors.append(name)
    head = "ok " if not errors else "BAD"
    return not errors, (f"{head} n={n} nkq={lay.nkq} nvq={lay.nvq}{' exact' if exact else ''}: differing "
                        + ", ".join(notes) + (" | FAILED: " + "; ".join(errors) if errors else ""))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("dump")
    ap.add_argument("--bits", type=int, help="if /kv has no attribute bits")
    ap.add_argument("--layers", help="comma separated numbers; default all")
    ap.add_argument("--k-tol", type=float, default=0.005)
    ap.add_argument("--ulp", type=int, default=2)
    ap.add_argument("--rope-style", choices=("half", "interleaved"))
    args = ap.parse_args()
    good = True
    with h5py.File(args.dump, "r") as h, torch.no_grad():
        a = h["qkv"].attrs
        style = a.get("rope_style", "half")
        at = dict(n_prompt=int(a["n_prompt"]), theta=float(a["rope_theta"]), d=int(a["head_dim"]),
                  H=int(a["n_head"]), Hk=int(a["n_kv_head"]), factor=float(a.get("rope_linear_factor", 1.0)),
                  style=style.decode() if isinstance(style, bytes) else str(style))
        b = h["kv"].attrs
        bits = int(args.bits or b["bits"])
        group, residual = int(b.get("group", 32)), int(b.get("residual", 128))
        names = sorted(x for x in h["qkv"] if x.startswith("layer_"))
        if args.layers:
            pick = {int(x) for x in args.layers.split(",")}
            names = [x for x in names if int(x[6:]) in pick]
        for x in names:
            if x not in h["kv"]:
                ok, line = False, "BAD /kv/" + x + " missing"
            else:
                ok, line = check_layer(h["kv"][x], h["qkv"][x], at, bits, group, residual, args)
            good &= ok
            print(x, line)
    if not names:
        print("no layers")
        good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
