"""Write the fixtures read by the C test (see README.md for the format).

  kv_fixtures.py [-o ../fixtures/kv]

Everything derives from fixed seeds.  Two streams of 340 tokens (GQA and MHA) and a small
stream of edge cases; a stream's values are exactly representable in fp16 and are stored as
fp16.  The KIVI cases take the stream's q, k as already rotated; the streaming and InfLLM
cases take the same numbers as raw (un-rotated) q, k.
"""
import argparse
import json
import os
import struct

import numpy as np
import torch

import infllm_oracle
import kivi_oracle
import streaming_oracle

torch.set_num_threads(1)
GROUP, RESIDUAL = 32, 128
DTYPES = {"u8": ("<u1", 1), "i32": ("<i4", 2), "i64": ("<i8", 3), "u64": ("<u8", 4),
          "f16": ("<f2", 5), "f32": ("<f4", 6), "f64": ("<f8", 7)}
NAME_LEN, MAX_DIM = 32, 4


def write_file(path, info, arrays):
    """arrays: {name: numpy array}.  Layout in README.md."""
    head = json.dumps(info, sort_keys=True).encode()
    table_at = 24 + len(head)
    table_at += -table_at % 16
    rec = struct.Struct(f"<{NAME_LEN}sII{MAX_DIM}qQ")
    at = table_at + rec.size * len(arrays)
    table, blobs = b"", []
    for name, a in arrays.items():
        kind = {np.dtype(v[0]): v for v in DTYPES.values()}[a.dtype.newbyteorder("<") if a.dtype.itemsize > 1 else a.dtype]
        at += -at % 16
        dims = list(a.shape) + [0] * (MAX_DIM - a.ndim)
        assert len(name) < NAME_LEN and a.ndim <= MAX_DIM
        table += rec.pack(name.encode(), kind[1], a.ndim, *dims, at)
        blobs.append((at, np.ascontiguousarray(a, dtype=kind[0]).tobytes()))
        at += a.nbytes
    with open(path, "wb") as f:
        f.write(struct.pack("<8sIIII", b"KVFIX01\0", len(head), len(arrays), table_at, rec.size))
        f.write(head)
        f.seek(table_at)
        f.write(table)
        for pos, data in blobs:
            f.seek(pos)
            f.write(data)
        f.truncate(max(at, f.tell()))


def read_file(path):
    """The inverse, used by the self check and by anybody who wants the arrays in Python."""
    raw = open(path, "rb").read()
    magic, nhead, n, table_at, size = struct.unpack_from("<8sIIII", raw)
    assert magic == b"KVFIX01\0"
    rec = struct.Struct(f"<{NAME_LEN}sII{MAX_DIM}qQ")
    out = {}
    for i in range(n):
        name, kind, nd, *rest = rec.unpack_from(raw, table_at + i * size)
        dims, at = rest[:nd], rest[MAX_DIM]
        dt = {v[1]: v[0] for v in DTYPES.values()}[kind]
        out[name.rstrip(b"\0").decode()] = np.frombuffer(raw, dt, int(np.prod(dims)), at).reshape(dims)
    return json.loads(raw[24:24 + nhead]), out


PRIME = 0x100000001B3


def hash_bytes(data):
    """h = 0; for each byte b: h = h * 0x100000001B3 + b + 1   (mod 2^64)."""
    b = np.frombuffer(data, np.uint8).astype(np.uint64) + np.uint64(1)
    if b.size == 0:
        return 0
    with np.errstate(over="ignore"):
        w = np.full(b.size, PRIME, np.uint64)
        w[0] = 1
        w = np.cumprod(w)[::-1]
        return int((b * w).sum(dtype=np.uint64))


def hash_state(layer):
    """[k codes, k scale+min, v codes, v scale+min]; tensors in [head, token, channel] order.

    Codes are hashed one byte per code; scale and min as fp16 little-endian, first all
    scales, then all minima, with negative zero written as positive zero.
    """
    f = lambda t: (t + torch.zeros(1, dtype=t.dtype)).numpy().tobytes()   # -0 -> +0
    return [hash_bytes(layer.k_codes.numpy().tobytes()), hash_bytes(f(layer.k_scale) + f(layer.k_min)),
            hash_bytes(layer.v_codes.numpy().tobytes()), hash_bytes(f(layer.v_scale) + f(layer.v_min))]


def pack(codes, bits):
    """[Hk, n, d] -> bytes, first code in the low bits of each byte, along the channels."""
    per = 8 // bits
    c = codes.numpy().reshape(codes.shape[0], codes.shape[1], -1, per)
    return sum((c[..., i] << (bits * i)).astype(np.uint8) for i in range(per)).astype(np.uint8)


def stream(seed, T, H, Hk, d):
    """q, k, v with the structure of real caches, rounded to fp16.

    K: strong channel offsets, a few outlier channels, slow drift over tokens.
    V: token-wise scale, some large tokens.  q: follows some of the keys so that attention
    is peaked for part of the heads.
    """
    g = torch.Generator().manual_seed(seed)
    rn = lambda *s: torch.randn(*s, generator=g)
    off = rn(1, Hk, d) * 1.5
    off[:, :, ::13] *= 4
    drift = torch.cumsum(rn(T, Hk, d) * 0.05, 0)
    k = off + drift + 0.6 * rn(T, Hk, d)
    v = rn(T, Hk, d) * (0.2 + 1.3 * torch.rand(T, Hk, 1, generator=g))
    v[::37] *= 5
    like = torch.randint(0, T, (T, H), generator=g)
    kk = (k - off).repeat_interleave(H // Hk, 1)
    sharp = torch.linspace(0.1, 2.0, H).view(1, H, 1)
    q = rn(T, H, d) * 0.5 + sharp * kk[like, torch.arange(H)[None, :]]
    return [x.to(torch.float16) for x in (q, k, v)]


def edge_stream():
    """One head, d = 32, 172 tokens: zero scales, underflowing scales, exact ties, large values."""
    g = torch.Generator().manual_seed(99)
    T, d = 172, 32
    q, k, v = (torch.randn(T, 1, d, generator=g) for _ in range(3))
    tiny = 2.0 ** -24
    i = torch.arange(32)
    k[0:32, 0, 0] = 0.75                                    # constant group: scale 0
    k[0:32, 0, 1] = 0.0                                     # all zero
    k[0:32, 0, 2] = tiny * (i % 2)                          # scale underflows for 2 and 4 bits
    k[0:32, 0, 3] = tiny * (i % 8)                          # underflows for 4 bits only
    k[0:32, 0, 4] = (i % 7) * 0.5                           # 2 bits: ties at 0.5, 1.5, 2.5
    k[0:32, 0, 5] = (i % 31) * 0.5                          # 4 bits: ties
    k[0:32, 0, 6] = torch.where(i % 2 == 0, 30000.0, -30000.0)   # large, range 60000 fits
    k[32:64, 0, 7] = 1000 + (i % 4).float()                 # few significant bits left
    k[32:64, 0, 8] = torch.where(i == 5, 8.0, 0.001 * i)    # one outlier
    v[3, 0, :] = -1.25                                      # constant row
    v[4, 0, :] = tiny * (i % 2)
    v[5, 0, :] = (i % 7) * 0.5
    v[6, 0, :] = (i % 31) * 0.5
    v[7, 0, :] = torch.where(i == 9, 500.0, 0.01 * i)
    q[:, 0, 6] = 0                                          # keeps the logits finite
    return [x.to(torch.float16) for x in (q, k, v)]


def kivi_case(q, k, v, bits, n_prompt, steps, keep):
    """Per-step numbers of one case; `keep` = decode steps (1-based) whose output is stored."""
    rows = []

    def on_state(step, l):
        rows.append((l.n, l.nkq, l.nvq, *hash_state(l)))
    T = n_prompt + steps
    layer, refs, f32s = kivi_oracle.run(q[:T].float(), k[:T].float(), v[:T].float(), n_prompt,
                                        bits, GROUP, RESIDUAL, on_state)
    idx = [s - 1 for s in keep]
    return layer, {
        "counts": np.array([r[:3] for r in rows], "<i4"),         # n, nkq, nvq; row 0 = after prompt
        "hash": np.array([r[3:] for r in rows], "<u8"),
        "out_step": np.array(keep, "<i4"),
        "out_ref": refs[idx].numpy(),
        "out_f32": f32s[idx].numpy(),
    }


def flush_steps(n_prompt, steps):
    """First step, the steps around a K flush and the first V push, and the last step."""
    want = {1, steps}
    for s in range(1, steps + 1):
        n = n_prompt + s
        if n % RESIDUAL == 0:
            want |= {s, s + 1}
        if n == RESIDUAL + 1:
            want |= {s + 1}
    return sorted(x for x in want if 1 <= x <= steps)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-o", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "kv"))
    args = ap.parse_args()
    out = args.o
    os.makedirs(out, exist_ok=True)
    save = lambda name, info, arrays: write_file(os.path.join(out, name), info, arrays)

    streams = {"gqa": stream(1234, 340, 4, 2, 64), "mha": stream(4321, 340, 2, 2, 32),
               "edge": edge_stream()}
    cases = {"gqa": [(5, 40), (100, 40), (127, 40), (128, 40), (129, 40), (256, 40), (300, 40), (100, 200)],
             "edge": [(140, 32)]}
    cases["mha"] = cases["gqa"]

    for name, (q, k, v) in streams.items():
        H, Hk, d = q.shape[1], k.shape[1], q.shape[2]
        base = dict(stream=name, n_head=H, n_kv_head=Hk, head_dim=d, n_tokens=q.shape[0],
                    group=GROUP, residual=RESIDUAL)
        save(f"stream_{name}.bin", base, {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()})
        for bits in (2, 4):
            arrays, final = {}, []
            for i, (L, S) in enumerate(cases[name]):
                layer, a = kivi_case(q, k, v, bits, L, S, flush_steps(L, S))
                arrays |= {f"c{i}.{key}": val for key, val in a.items()}
                final.append(layer)
            # Codes, scales and minima of a token do not depend on where the prompt ended, so
            # the final state of every case is a prefix of the longest one: one copy is enough.
            longest = max(final, key=lambda l: l.n)
            for l in final:
                for x in ("k_codes", "k_scale", "k_min", "v_codes", "v_scale", "v_min"):
                    part = getattr(l, x)
                    assert torch.equal(getattr(longest, x)[:, :part.shape[1]], part)
            arrays |= {"final.n": np.array([longest.n, longest.nkq, longest.nvq], "<i4"),
                       "final.k_codes": pack(longest.k_codes, bits), "final.v_codes": pack(longest.v_codes, bits),
                       "final.k_scale": longest.k_scale.numpy(), "final.k_min": longest.k_min.numpy(),
                       "final.v_scale": longest.v_scale.numpy(), "final.v_min": longest.v_min.numpy()}
            info = base | dict(method="kivi", bits=bits, cases=[list(c) for c in cases[name]])
            arrays = {"param": np.array([H, Hk, d, GROUP, RESIDUAL, bits, q.shape[0]], "<i4"),
                      "case": np.array(cases[name], "<i4")} | arrays
            save(f"kivi_{name}_{bits}bit.bin", info, arrays)

    # StreamingLLM: selected rows of a 300-token run (260 prompt tokens, 40 steps)
    T, L, chunk = 300, 260, 64
    for name in ("gqa", "mha"):
        q, k, v = (x[:T].float() for x in streams[name])
        arrays = {}
        params = [(4, 60, 0), (1, 1, 0), (10, 128, 0), (2, 500, 0), (0, 7, 0), (4, 60, 8)]
        for i, (n_init, n_local, fac) in enumerate(params):
            states = []

            def on_state(ed, l):
                gaps = sum(x != y + 1 for x, y in zip(l.held[1:], l.held))
                states.append((ed, len(l.held), l.held[0], l.held[-1], gaps))
            o = streaming_oracle.run(q, k, v, L, n_init, n_local, chunk, 10000.0, fac or None,
                                     on_state)
            rows = {0, 1, 63, 64, 127, 200, L - 1, L, T - 1} | {n_local - 1, n_local, n_local + n_init}
            rows = sorted(r for r in rows if 0 <= r < T)
            tag = f"c{i}"
            arrays[f"{tag}.rows"] = np.array(rows, "<i4")
            arrays[f"{tag}.out"] = o[rows].numpy()
            # after every call: tokens fed, rows held, first and last held token, gaps (0 or 1)
            arrays[f"{tag}.held"] = np.array(states, "<i4")
        info = dict(method="streaming", stream=name, rope_base=10000.0, n_tokens=T, n_prompt=L, chunk=chunk,
                    params=[list(p) for p in params])
        arrays = {"param": np.array([T, L, chunk], "<i4"), "case": np.array(params, "<i4")} | arrays
        save(f"streaming_{name}.bin", info, arrays)

    # Budgets: ratio, prompt length, model_max_len -> n_init, n_local; and inf-llm's
    rows_in, rows_out = [], []
    for ratio in (0.5, 0.25, 0.17, 0.125):
        for mx in (7500, 31500, 2147483647):
            for n in (1, 2, 7, 8, 47, 48, 96, 100, 190, 191, 192, 381, 382, 1000, 2287, 4100, 7499, 7500, 7501, 20000, 31500, 40000):
                rows_in.append((ratio, n, mx))
                rows_out.append((*streaming_oracle.budget(ratio, n, mx), *streaming_oracle.budget_infllm(ratio, n, mx)))
    save("budget.bin", dict(method="budget", init_ratio=0.021, context_ratio=0.324, block_size=128, exc_block_size=512,
                            columns=["stream n_init", "stream n_local", "inf n_init", "inf n_local", "inf topk", "inf max_cached_block"]),
         {"in": np.array(rows_in, "<f8"), "out": np.array(rows_out, "<i4")})

    # InfLLM: chosen blocks, representatives, selected rows (200 prompt tokens, 140 steps).  The chunk is a
    # multiple of every execution block, as upstream's 8192 is of 512.
    T, L, chunk = 340, 200, 128
    for name in ("gqa", "mha"):
        q, k, v = (x[:T].float() for x in streams[name])
        arrays, params = {}, [(4, 64, 2, 16, 32, 4, 0), (8, 40, 3, 8, 32, 2, 0), (4, 64, 40, 16, 32, 4, 0),
                              (0, 50, 1, 32, 16, 5, 8), (3, 64, 0, 16, 64, 4, 0), (5, 128, 2, 16, 128, 1, 0)]
        for i, (n_init, n_local, topk, block, exc, rk, fac) in enumerate(params):
            picks, counts = [], []

            def on_state(ed, l):
                picks.extend([[ed, j] + c + [-1] * (topk - len(c)) for j, c in enumerate(l.chosen)])
                counts.append([ed, l.init_k.shape[1], len(l.blocks), l.rem_first])

            o, layer = infllm_oracle.run(
                q, k, v, L, chunk=chunk, n_init=n_init, n_local=n_local, topk=topk, block_size=block,
                exc_block_size=exc, repr_topk=rk, linear_factor=fac or None, on_state=on_state)
            tag = f"c{i}"
            rows = [100, 163, L - 1, T - 1]
            arrays[f"{tag}.rows"] = np.array(rows, "<i4")
            arrays[f"{tag}.out"] = o[rows].numpy()
            arrays[f"{tag}.chosen"] = np.array(picks, "<i4")      # [tokens fed, exec block in call, block numbers or -1]
            arrays[f"{tag}.counts"] = np.array(counts, "<i4")
            arrays[f"{tag}.block_first"] = np.array([b[0] for b in layer.blocks], "<i4")
            arrays[f"{tag}.repr_ids"] = torch.stack(layer.repr_ids).sort(-1).values.to(torch.int32).numpy()
        info = dict(method="infllm", stream=name, rope_base=10000.0, n_tokens=T, n_prompt=L, chunk=chunk,
                    params=[list(p) for p in params])
        arrays = {"param": np.array([T, L, chunk], "<i4"), "case": np.array(params, "<i4"),
                  "rope_base": np.array([10000.0])} | arrays
        save(f"infllm_{name}.bin", info, arrays)

    total = 0
    for f in sorted(x for x in os.listdir(out) if x.endswith(".bin")):
        p = os.path.join(out, f)
        read_file(p)
        total += os.path.getsize(p)
        print(f"{os.path.getsize(p):8d} {f}")
    print(f"{total:8d} total")


if __name__ == "__main__":
    with torch.no_grad():
        main()
