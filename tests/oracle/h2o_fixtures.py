"""Write the H2O fixtures read by test_kv_h2o.c; container as in kv_fixtures.py.

  h2o_fixtures.py [-o ../fixtures/kv]

h2o_{gqa,mha}.bin: what h2o_oracle.py makes of stream_{gqa,mha}.bin, read as ALREADY rotated
  bench.case i32 [n, 5]: prompt length L, decode steps S, lag, heavy, recent (budgets that come out)
  bench.ratio f64 [n, 2]
  true.case i32 [n, 4]: L, S, hh_size, recent_size
  For case I of either:
  {bench,true}I.hash u64 [S]: hash (see README.md) of the keys seen in step 1.., a byte each, [heads, L + s]
      (bench: query heads, true: kv heads)
  {bench,true}I.scores f32 [heads, L + S]: scores after the last step, 0 where not kept
  {bench,true}I.out f32 [H, d]: output of the last step, float32
  true also {true}I.prompt_score f32 [Hk, L]

Scores of the benchmark's variant are fp16 as the source has them (logits rounded twice, p and sums once);
outputs stay float32 over the same keys.  Scores of the original are float32.  A case ends before the first
step in which relative noise of 1e-6 on q, k, v would change a key: keep sets are to be matched exactly,
scores to some units in the last place (of fp16, 3e-3; of float32, 2e-5), outputs to 1e-5.
"""
import argparse
import os

import numpy as np
import torch

import h2o_oracle as ho
from kv_fixtures import hash_bytes, read_file, write_file

torch.set_num_threads(1)
F16, F32, F64 = torch.float16, torch.float32, torch.float64
BENCH = [(200, 130, 0, .25, .25), (200, 130, 0, .125, .125), (200, 130, 1, .083, .083), (200, 130, 0, .0625, .0625), (200, 100, 1, .0625, .0625),
         (60, 120, 0, .25, .1), (60, 60, 0, 0., .2), (40, 60, 0, .5, .5), (11, 60, 0, .0625, .1)]
TRUE = [(200, 130, 50, 50), (200, 130, 25, 25), (200, 130, 16, 16), (200, 130, 12, 12), (60, 120, 20, 4), (20, 60, 20, 20), (60, 60, 0, 15), (60, 100, 15, 1)]
plain = ho.attention


def attention(q, k, v, causal, arith, keep=None):
    """arith "mix": probabilities as fp16 tensors give them, outputs in float32."""
    if arith != "mix":
        return plain(q, k, v, causal, arith, keep)
    rep, d = q.shape[1] // k.shape[1], q.shape[2]
    w = ho.scale16(torch.matmul(q.to(F64).transpose(0, 1), ho.rep_heads(k.to(F64), rep).transpose(1, 2)).to(F16), d)
    if keep is not None:
        w = torch.where(keep[:, None], w, torch.tensor(ho.MIN16, dtype=F16))
    return torch.softmax(w.to(F32), -1).to(F16), plain(q, k, v, causal, "f32", keep)[1]


ho.attention = attention


def usable(make, qkv, L, S):
    lay, steps = ho.run(make, *(x[:L + S] for x in qkv), L)
    n = S
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        z = [x[:L + S] * (1 + 1e-6 * torch.randn(x[:L + S].shape, generator=g)) for x in qkv]
        other = ho.run(make, *z, L)[1]
        n = next((s for s in range(n) if not torch.equal(other[s]["keep"], steps[s]["keep"])), n)
    return n


def case(make, qkv, L, S):
    n = usable(make, qkv, L, S)
    lay, steps = ho.run(make, *(x[:L + n] for x in qkv), L)
    return n, lay, steps


def arrays_of(name, lay, steps, L):
    n = len(steps)
    if hasattr(lay, "pos"):
        score = torch.zeros(lay.Hk, L + n, dtype=F32).scatter(1, lay.pos, lay.score)
    else:
        score = lay.previous.to(F32) if lay.previous is not None else torch.zeros(lay.H, L + n)
    return {name + ".hash": np.array([hash_bytes(s["keep"].numpy().astype(np.uint8).tobytes()) for s in steps], "<u8"),
            name + ".scores": score.numpy(), name + ".out": steps[-1]["out"].numpy()}


def write(name, folder):
    head, s = read_file(os.path.join(folder, f"stream_{name}.bin"))
    qkv = [torch.from_numpy(s[x].astype(np.float32)) for x in "qkv"]
    H, Hk, d = qkv[0].shape[1], qkv[1].shape[1], qkv[0].shape[2]
    arrays, rows = {}, {"bench": [], "true": []}
    for i, (L, S, lag, hr, rr) in enumerate(BENCH):
        n, lay, steps = case(lambda: ho.H2OBench(H, Hk, d, hr, rr, lag, "mix"), qkv, L, S)
        rows["bench"].append([L, n, lag, lay.heavy, lay.recent])
        arrays |= arrays_of(f"bench{i}", lay, steps, L)
    for i, (L, S, hh, rc) in enumerate(TRUE):
        n, lay, steps = case(lambda: ho.H2OTrue(H, Hk, d, hh, rc, "f32", "f32"), qkv, L, S)
        rows["true"].append([L, n, hh, rc])
        arrays |= arrays_of(f"true{i}", lay, steps, L)
        arrays[f"true{i}.prompt_score"] = lay.prompt_score.numpy()
    print(name, {k: [r[1] for r in v] for k, v in rows.items()})
    top = {"bench.case": np.array(rows["bench"], "<i4"), "bench.ratio": np.array([b[3:] for b in BENCH], "<f8"),
           "true.case": np.array(rows["true"], "<i4")}
    write_file(os.path.join(folder, f"h2o_{name}.bin"), dict(method="h2o", stream=f"stream_{name}", cases=rows), top | arrays)


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("-o", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "kv"))
    a = ap.parse_args()
    with torch.no_grad():
        for name in ("gqa", "mha"):
            write(name, a.o)
