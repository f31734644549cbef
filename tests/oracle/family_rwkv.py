"""RWKV-5.2 against the package `rwkv` 0.8.25 (strategy cpu fp32, without its compiled kernels)."""
import os

import torch

from family_make import write_oracle

os.environ["RWKV_JIT_ON"] = "0"
os.environ["RWKV_CUDA_ON"] = "0"


def checkpoint(L, H, S, F, V, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    rnd = lambda *n: torch.randn(*n, generator=g)
    uni = lambda *n: torch.rand(*n, generator=g)
    C = H * S
    w = {"emb.weight": 0.5 * rnd(V, C), "blocks.0.ln0.weight": 1 + 0.2 * rnd(C), "blocks.0.ln0.bias": 0.2 * rnd(C),
         "ln_out.weight": 1 + 0.2 * rnd(C), "ln_out.bias": 0.2 * rnd(C), "head.weight": 1.5 * rnd(V, C) / C ** 0.5}
    for i in range(L):
        b, att, ffn = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for ln in (b + "ln1", b + "ln2", att + "ln_x"):
            w[ln + ".weight"], w[ln + ".bias"] = 1 + 0.2 * rnd(C), 0.2 * rnd(C)
        for k in "kvrg":
            w[att + "time_mix_" + k] = uni(1, 1, C)
        w[att + "time_decay"], w[att + "time_faaaa"] = 2 * rnd(H, S) - 2, 0.5 * rnd(H, S)
        for k in ("receptance", "key", "value", "gate", "output"):
            w[att + k + ".weight"] = 1.3 * rnd(C, C) / C ** 0.5
        w[ffn + "time_mix_k"], w[ffn + "time_mix_r"] = uni(1, 1, C), uni(1, 1, C)
        w[ffn + "key.weight"], w[ffn + "value.weight"] = 1.3 * rnd(F, C) / C ** 0.5, rnd(C, F) / F ** 0.5
        w[ffn + "receptance.weight"] = 1.3 * rnd(C, C) / C ** 0.5
    return {k: v.to(dtype) for k, v in w.items()}


def make(dtype, seed):
    def maker(folder):
        from rwkv.model import RWKV
        path = os.path.join(folder, "tiny.pth")
        torch.save(checkpoint(2, 4, 8, 56, 64, dtype, seed), path)
        m = RWKV(model=path[:-4], strategy="cpu fp32")

        cache = {}

        def whole(ids):  # greedy decoding asks for ever longer passes: go on from the last
            key = tuple(ids)
            for n in (len(key), len(key) - 1):
                if key[:n] in cache:
                    rows, state = cache[key[:n]]
                    break
            else:
                n, rows, state = 0, [], None
            rows = list(rows)
            for i in key[n:]:
                out, state = m.forward([i], [s.clone() for s in state] if state is not None else None)
                rows.append(out.float().cpu())
            cache.clear()
            cache[key] = (rows, state)
            return torch.stack(rows).numpy()
        write_oracle(os.path.join(folder, "oracle.bin"), whole, 64, seed)
    return maker


MAKERS = {"rwkv5": make(torch.float32, 5), "rwkv5_bf16": make(torch.bfloat16, 6)}
