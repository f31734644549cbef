"""Check a dump of h2o-paper or h2o (`kvsweep logits --dump-qkv`, float32) against the oracle, layer by layer.

  h2o_check_dump.py DUMP.h5...

The oracle gets the dumped q (rotated here), k_rope and v of every layer; after its last step the keys it keeps
must be those of /kv/layer_NN, for every head, and the scores equal: to some units in the last place of fp16
for h2o-paper, 1e-4 for h2o (which reads scores of 16-bit products on fast tables). Several dumps of the same
tokens with growing --max-new show the steps in between. A selection in which the scores on both sides of the
border differ by less than that is reported as close, not as different.
"""
import sys

import h5py
import numpy as np
import torch

import h2o_fixtures  # "mix": fp16 scores, float32 outputs
import h2o_oracle as ho

torch.set_num_threads(1)


def rotate(x, theta):
    n, _, d = x.shape
    inv = 1.0 / (theta ** (torch.arange(0, d, 2, dtype=torch.int64).float() / d))
    a = torch.outer(torch.arange(n).float(), inv)
    c, s = (torch.cat([t, t], -1)[:, None] for t in (a.cos(), a.sin()))
    return x * c + torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1) * s


def params_of(f):
    text = f.attrs["method"]
    text = text.decode() if isinstance(text, bytes) else str(text)
    name, _, rest = text.partition(":")
    return name, dict(x.split("=") for x in rest.split(",") if x)


def layer_of(name, p, layer, shape, L):
    heavy, recent = float(p["heavy"]), float(p["recent"])
    if name == "h2o-paper":
        return ho.H2OBench(*shape, heavy, recent, int(p["lag"]) if layer == 0 else 0, "mix")
    sizes = (int(p["heavy_size"]), int(p["recent_size"])) if int(p["recent_size"]) else (int(heavy * L), max(1, int(recent * L)))
    return ho.H2OTrue(*shape, *sizes, "f32", "f32")


def state(lay, T):
    """What the next row may see (its own key apart) and the scores, [heads, T]."""
    if isinstance(lay, ho.H2OBench):
        keep = lay.mask[:, :T] if lay.mask is not None else torch.ones(lay.H, T, dtype=torch.bool)
        return keep, lay.previous.float() if lay.previous is not None else torch.zeros(lay.H, T)
    zero = torch.zeros(lay.Hk, T)
    return zero.bool().scatter(1, lay.pos, True), zero.scatter(1, lay.pos, lay.score)


def dumped(g, name, H, Hk, T):
    if name == "h2o-paper":
        return torch.from_numpy(g["keep"][:].reshape(H, -1)[:, :T]).bool(), torch.from_numpy(g["score"][:].reshape(H, -1))
    kept, score = torch.from_numpy(g["kept"][:].reshape(Hk, -1)).long(), torch.from_numpy(g["score"][:].reshape(H, -1))
    zero = torch.zeros(Hk, T)
    return zero.bool().scatter(1, kept, True), zero.scatter(1, kept, score.view(Hk, H // Hk, -1).mean(1))


def check(path):
    f = h5py.File(path)
    name, p = params_of(f)
    qkv = f["qkv"]
    L, theta, bad, worst, close = int(qkv.attrs["n_prompt"]), float(qkv.attrs["rope_theta"]), 0, 0.0, 0
    layers = sorted(x for x in qkv if x.startswith("layer_"))
    for i, layer in enumerate(layers):
        q, k, v = (torch.from_numpy(qkv[layer][x][:]) for x in ("q", "k_rope", "v"))
        T, H, Hk = q.shape[0], q.shape[1], k.shape[1]
        lay, _ = ho.run(lambda: layer_of(name, p, i, (H, Hk, q.shape[2]), L), rotate(q, theta), k, v, L)
        keep, score = state(lay, T)
        got, got_score = dumped(f["kv"][layer], name, H, Hk, T)
        differ = (keep != got).any(1)
        bound = 1e-2 if name == "h2o-paper" else 1e-4
        for h in differ.nonzero().flatten().tolist():
            edge = torch.cat([score[h][keep[h] & ~got[h]], got_score[h][got[h] & ~keep[h]]])
            near = bool(edge.max() - edge.min() <= bound * edge.max())
            close, bad = close + near, bad + (not near)
        same = keep & got
        off = ((score - got_score).abs() / (score.abs() + 1e-6))[same]
        worst = max(worst, float(off.max()) if off.numel() else 0.0)
    print(f"{path}: {name} {p.get('heavy')} prompt {L}, {T - L} steps, {len(layers)} layers x {keep.shape[0]} heads: "
          f"{bad} heads differ, {close} close, scores off by {worst:.1e}")
    return bad == 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(0 if all([check(x) for x in sys.argv[1:]]) else 1)
