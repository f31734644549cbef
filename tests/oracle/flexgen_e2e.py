"""End to end: logits of `kvsweep logits` (float32) against the oracle's own forward pass along the same tokens.

  flexgen_e2e.py OURS.h5 MODEL_DIR [--runs 4] [--noise 2.5e-7]

The method is the file's: full, kivi, flexgen or flexgen-upstream (no `when` but its own). The oracle is forced along
the file's ids, so every step has the same history in all runs. Runs compared: `ours`, the oracle, and the oracle
RUNS times with embeddings and every layer's q, k, v changed by NOISE (relative, normal; its own seed each): about what
another order of float32 summation does. A run of `full` tells how much that is: on SmolLM2 2.5e-7 moves its logits as
far as ours are from the oracle's. One JSON line:

  steps, clear        logit rows; those where the oracle's top-2 gap exceeds 1e-3
  differ, noisy_differ  first choices unlike the oracle's at clear steps: ours, every noisy run
  differences         [step, gap] of every choice of ours that is unlike the oracle's, first ten
  unanimous, against  steps where all oracle runs choose alike; those of them where ours chooses otherwise
  noisy_unanimous, noisy_against  the same for every noisy run in the place of ours
  max_error, noisy_max_error  largest |logit - oracle's| over all steps
  error, noisy_error  median and 90th percentile over steps of the largest |logit - oracle's| of a step; noisy: mean of runs
  kl, noisy_kl        the same of the step's KL(oracle || other), nats
  far, noisy_far      median over steps of the mean largest difference from all oracle runs but itself
  codes, noisy_codes  with --dump-qkv: share of 4-bit codes unlike the oracle's in the first and in the last layer

Where RUNS noisy runs stay together, ours has to be as near. Where they part (flexgen on a trained model: a code flips
at a rounding border, and that is a whole step for the next layer), no two float32 programs can agree, and the question
is whether ours is one of them: then `far` is not above noisy_far, and `against` not above noisy_against.
Exit status 1: a first choice at a clear and unanimous step differs while no noisy run does that.
"""
import argparse
import json
import os
import sys

import h5py
import numpy as np
import torch

import flexgen_oracle as fo
import kivi_e2e

GAP = 1e-3


class Layers:
    """Attention of kivi_e2e.Llama over one FlexGen oracle per layer."""

    def __init__(self, m, make):
        self.m, self.layers, self.n = m, [make() for _ in m.layers], [0] * len(m.layers)

    def __call__(self, i, q, k, v):
        lay, at = self.layers[i], self.n[i]
        q, k = self.m.rope(q, at), self.m.rope(k, at)
        self.n[i] += q.shape[0]
        return lay.prompt(q, k, v)["f32"] if at == 0 else lay.step(q[0], k[0], v[0])["f32"][None]


def attention(m, text):
    name, _, rest = text.partition(":")
    p = dict(x.split("=") for x in rest.split(",") if x)
    num = {k: int(x) for k, x in p.items() if k != "when"}
    if name == "full":
        return kivi_e2e.FullAttention(m)
    if name == "kivi" and p["when"] == "after":
        return kivi_e2e.KiviAttention(m, num["bits"], num["group"], num["residual"], torch.float32)
    if name == "flexgen" and p["when"] == "prefill" and num["bits"] == 4:
        return Layers(m, lambda: fo.SimLayer(m.H, m.Hk, m.d, num["group"]))
    if name == "flexgen-upstream" and p["when"] == "after":
        return Layers(m, lambda: fo.FlexGenLayer(m.H, m.Hk, m.d, num["group"], own16=False))
    sys.exit(f"no oracle for {text}")


class Nearby:
    """An embedding table whose rows, looked up for `runs` equal parts of a list of ids, differ a little in each part."""

    def __init__(self, table, near):
        self.table, self.near = table, near

    def __getitem__(self, ids):
        return torch.cat([f(x) for f, x in zip(self.near, self.table[ids].chunk(len(self.near)))])


def oracle_runs(m, text, ids, n_prompt, n, noise, seeds):
    """Runs along ids (prompt, then tokens to take), one per seed; seed 0 is without noise. Prompts go one by one, decode
    steps together. -> logits [seeds, n, vocab], per seed the codes of the first and the last layer, or None."""

    def changed(seed):
        g = torch.Generator().manual_seed(seed)
        return lambda x: x * (1 + noise * torch.randn(x.shape, generator=g)) if seed else x

    near, att, emb = [changed(s) for s in seeds], [attention(m, text) for _ in seeds], m.emb
    of = lambda r: lambda i, *qkv: att[r](i, *(near[r](x) for x in qkv))
    every = lambda i, *qkv: torch.cat([of(r)(i, *(x[r:r + 1] for x in qkv)) for r in range(len(seeds))])
    rows = []
    for r in range(len(seeds)):
        m.emb = Nearby(emb, near[r:r + 1])
        rows.append(m.forward(ids[:n_prompt], of(r)))
    steps, m.emb = [torch.cat(rows)], Nearby(emb, near)
    for token in ids[n_prompt:n_prompt + n - 1]:
        steps.append(m.forward([token] * len(seeds), every, last_only=False))
    m.emb = emb
    codes = None
    if isinstance(att[0], Layers):
        codes = [[(a.layers[i].k_codes.numpy(), a.layers[i].v_codes.numpy()) for i in (0, -1)] for a in att]
    return torch.stack(steps, 1), codes


def our_codes(f):
    if "kv" not in f or "layer_00/k_codes" not in f["kv"]:
        return None
    last = sorted(x for x in f["kv"] if x.startswith("layer_"))[-1]
    return [tuple(f["kv"][layer][x + "_codes"][()] for x in "kv") for layer in ("layer_00", last)]


def share(a, b):
    """Share of codes that differ, per layer; the shorter of two runs counts."""
    n = min(a[0][0].shape[0], b[0][0].shape[0])
    return [float(f"{np.mean([np.mean(x[:n] != y[:n]) for x, y in zip(s, t)]):.2e}") for s, t in zip(a, b)]


def biggest(a, b):
    return (a - b).abs().max(-1).values


def kl(a, b):
    p, q = torch.log_softmax(a.double(), -1), torch.log_softmax(b.double(), -1)
    return (p.exp() * (p - q)).sum(-1)


def spread(x):
    return [float(f"{v:.2e}") for v in (x.median(), x.quantile(0.9))]


def mean_spread(xs):
    return [float(f"{v:.2e}") for v in np.mean([spread(x) for x in xs], 0)]


def report(text, ours, runs):
    """runs[0]: the oracle; the others: with noise."""
    top = runs[0].topk(2).values
    gap, pick = top[:, 0] - top[:, 1], [r.argmax(-1) for r in runs]
    mine, clear = ours.argmax(-1), gap > GAP
    agreed = lambda ps: torch.stack([(p == ps[0]) for p in ps]).all(0)
    others = [pick[:i] + pick[i + 1:] for i in range(1, len(pick))]
    far = lambda x, rs: float(f"{torch.stack([biggest(x, r) for r in rs]).mean(0).median():.2e}")
    noisy = range(1, len(runs))
    unlike = torch.nonzero(mine != pick[0]).flatten().tolist()
    return {
        "method": text, "steps": len(gap), "clear": int(clear.sum()), "smallest_gap": float(f"{gap.min():.2e}"),
        "differ": int((clear & (mine != pick[0])).sum()), "noisy_differ": [int((clear & (pick[i] != pick[0])).sum()) for i in noisy],
        "differences": [[t, float(f"{gap[t]:.2e}")] for t in unlike[:10]],
        "unanimous": int(agreed(pick).sum()), "against": int((agreed(pick) & (mine != pick[0])).sum()),
        "noisy_unanimous": [int(agreed(o).sum()) for o in others],
        "noisy_against": [int((agreed(o) & (pick[i] != o[0])).sum()) for i, o in zip(noisy, others)],
        "max_error": float(f"{biggest(ours, runs[0]).max():.2e}"),
        "noisy_max_error": [float(f"{biggest(runs[i], runs[0]).max():.2e}") for i in noisy],
        "error": spread(biggest(ours, runs[0])), "noisy_error": mean_spread([biggest(runs[i], runs[0]) for i in noisy]),
        "kl": spread(kl(runs[0], ours)), "noisy_kl": mean_spread([kl(runs[0], runs[i]) for i in noisy]),
        "far": far(ours, runs), "noisy_far": [far(runs[i], runs[:i] + runs[i + 1:]) for i in noisy],
        "logits_std": float(f"{runs[0].std():.2e}"),
    }, int((clear & agreed(pick) & (mine != pick[0])).sum())


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("ours")
    ap.add_argument("model")
    ap.add_argument("--runs", type=int, default=4)
    ap.add_argument("--noise", type=float, default=2.5e-7)
    ap.add_argument("--threads", type=int, default=1)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import LlamaForCausalLM
    with h5py.File(a.ours) as f, torch.no_grad():
        text, L, ids = str(f.attrs["method"]), int(f.attrs["n_prompt"]), f["ids"][()].tolist()
        first = L - 1 - int(f["logits"].attrs["first_position"])
        ours, codes = torch.from_numpy(f["logits"][first:]), our_codes(f)
        m = kivi_e2e.Llama(LlamaForCausalLM.from_pretrained(a.model, dtype=torch.float32))
        runs, oracle = oracle_runs(m, text, ids, L, len(ours), a.noise, range(a.runs + 1))
        r, bad = report(text, ours, list(runs))
    if codes and oracle:
        r |= {"codes": share(codes, oracle[0]), "noisy_codes": [share(x, oracle[0]) for x in oracle[1:]]}
    print(json.dumps(r))
    return int(bad > 0 and not any(r["noisy_against"]))


if __name__ == "__main__":
    sys.exit(main())
