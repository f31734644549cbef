"""Compare a program's InfLLM with the oracle, layer by layer, on q, k, v of a real run.

  infllm_check.py DUMP.h5 [--layers 0,5] [--replay DIR]

DUMP.h5: written by `kvsweep logits --method infllm:... --dump-qkv` at float32; its /kv holds the cache after the
last step (counts, blocks, repr_ids, repr).  Prints a line per layer; exit status 1 if one differs in a count, a
chosen block or a token behind a representative, or in a representative by more than 1e-5.

--replay writes DIR/stream_layer_NN.bin and DIR/infllm_layer_NN.bin, the state after every piece and step, for
`test_kv_infllm TABLE DIR layer_NN`.
"""
import argparse
import os
import sys

import h5py
import numpy as np
import torch

import infllm_oracle
import streaming_oracle
from kv_fixtures import write_file

torch.set_num_threads(1)
CHUNK = 8192


def text(x):
    return x.decode() if isinstance(x, bytes) else str(x)


def sizes(p, n_prompt):
    """n_init, n_local, topk of the parameters in a method's canonical text."""
    if int(p["local"]):
        return int(p["init"]), int(p["local"]), int(p["topk"])
    cap = int(p["cap"]) or 2**31 - 1
    return streaming_oracle.budget_infllm(float(p["keep"]), n_prompt, cap, float(p["init_share"]),
                                          float(p["retrieved_share"]), int(p["block"]), int(p["min_local"]))[:3]


def run_oracle(qkv, n_prompt, base, factor, z, p):
    q, k, v = (torch.from_numpy(np.asarray(qkv[n][()], np.float32)) for n in "qkv")
    picks, counts, margins = [], [], []
    choose = infllm_oracle.InfLLMLayer._choose

    def watched(self, qg):                     # distance between the last chosen block and the first left out
        if len(self.blocks) > self.topk > 0:
            s = (torch.stack(self.reprs).flatten(1) @ qg.mean(1).flatten()).sort(descending=True).values
            margins.append(float((s[self.topk - 1] - s[self.topk]) / s.abs().max()))
        return choose(self, qg)

    def on_state(ed, l):
        picks.extend([[ed, j] + c + [-1] * (z[2] - len(c)) for j, c in enumerate(l.chosen)])
        counts.append([ed, l.init_k.shape[1], len(l.blocks), l.rem_first])

    infllm_oracle.InfLLMLayer._choose = watched
    out, layer = infllm_oracle.run(q, k, v, n_prompt, chunk=CHUNK, n_init=z[0], n_local=z[1], topk=z[2],
                                   block_size=int(p["block"]), exc_block_size=int(p["piece"]), repr_topk=int(p["repr"]),
                                   base=base, linear_factor=factor, on_state=on_state)
    infllm_oracle.InfLLMLayer._choose = choose
    return (q, k, v), out, layer, np.array(picks, "<i4"), np.array(counts, "<i4"), margins


def compare(kv, layer, picks, counts, topk):
    bad = []
    got = kv["counts"][()].ravel()
    if list(got) != list(counts[-1]):
        bad.append(f"counts {list(got)}, expected {list(counts[-1])}")
    want = sorted(x for x in picks[-1][2:] if x >= 0)
    have = sorted(kv["blocks"][()].ravel()) if "blocks" in kv else []
    if want != have:
        bad.append(f"blocks {have}, expected {want}")
    if topk and layer.reprs:
        ids = torch.stack(layer.repr_ids).sort(-1).values.numpy()
        n_bad = int((kv["repr_ids"][()] != ids).any(-1).sum()) if kv["repr_ids"].shape == ids.shape else -1
        if n_bad:
            bad.append(f"{n_bad} of {ids.shape[0] * ids.shape[1]} representatives from other tokens")
        else:
            err = float(np.abs(kv["repr"][()] - torch.stack(layer.reprs).numpy()).max())
            if err > 1e-5:
                bad.append(f"representatives differ by {err:.1e}")
    return bad


def replay(path, name, rows, out, layer, picks, counts, n_prompt, base, factor, z, p):
    q, k, v = (x.numpy() for x in rows)
    T = q.shape[0]
    at = sorted({0, 511, 700, n_prompt - 2, n_prompt - 1, n_prompt, T - 2, T - 1})
    at = [t for t in at if 0 <= t < T]
    case = [z[0], z[1], z[2], int(p["block"]), int(p["piece"]), int(p["repr"]), int(factor or 0)]
    write_file(os.path.join(path, f"stream_{name}.bin"), {}, {"q": q, "k": k, "v": v})
    reprs = (torch.stack(layer.repr_ids).sort(-1).values.to(torch.int32).numpy() if layer.repr_ids
             else np.zeros((0, q.shape[1], case[5]), "<i4"))
    write_file(os.path.join(path, f"infllm_{name}.bin"), {}, {
        "param": np.array([T, n_prompt, CHUNK], "<i4"), "case": np.array([case], "<i4"), "rope_base": np.array([base]),
        "c0.rows": np.array(at, "<i4"), "c0.out": out[at].numpy(), "c0.chosen": picks, "c0.counts": counts,
        "c0.block_first": np.array([b[0] for b in layer.blocks], "<i4"), "c0.repr_ids": reprs})


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("dump")
    ap.add_argument("--layers", help="comma separated numbers; default all")
    ap.add_argument("--replay", metavar="DIR")
    args = ap.parse_args()
    good = True
    with h5py.File(args.dump, "r") as h, torch.no_grad():
        method = text(h.attrs["method"])
        assert method.startswith("infllm:"), method
        p = dict(x.split("=") for x in method.split(":", 1)[1].split(","))
        a = h["qkv"].attrs
        n_prompt, base, factor = int(a["n_prompt"]), float(a["rope_theta"]), float(a.get("rope_linear_factor", 0)) or None
        z = sizes(p, n_prompt)
        names = sorted(x for x in h["qkv"] if x.startswith("layer_"))
        if args.layers:
            names = [x for x in names if int(x[6:]) in {int(y) for y in args.layers.split(",")}]
        if args.replay:
            os.makedirs(args.replay, exist_ok=True)
        for x in names:
            rows, out, layer, picks, counts, margins = run_oracle(h["qkv"][x], n_prompt, base, factor, z, p)
            bad = compare(h["kv"][x], layer, picks, counts, z[2])
            good &= not bad
            print(x, "BAD" if bad else "ok ", f"n={rows[0].shape[0]} init={z[0]} local={z[1]} topk={z[2]}",
                  f"blocks={len(layer.blocks)} choices={len(margins)} distinct={len({tuple(c[2:]) for c in picks})}",
                  f"least margin {min(margins, default=np.nan):.1e}", "; ".join(bad))
            if args.replay:
                replay(args.replay, x, rows, out, layer, picks, counts, n_prompt, base, factor, z, p)
    sys.exit(0 if good and names else 1)


if __name__ == "__main__":
    main()
