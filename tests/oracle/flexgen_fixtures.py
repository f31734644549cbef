"""Write the FlexGen fixtures read by the C test; container as in kv_fixtures.py.

  flexgen_fixtures.py [-o ../fixtures/kv]

flexgen_{gqa,mha}.bin
  param i32 [5]: H, Hk, d, T, prompt length.  q f16 [T, H, d], k, v f16 [T, Hk, d], already rotated.
  sim.* the benchmark's simulation (group 32), up.* FlexGen's own (group 64, zero padded):
    {k,v}_codes u8 [T, Hk, d], {k,v}_scale, {k,v}_min f16 [T, Hk, groups], {k,v}_val f16 [T, Hk, d]
    out f32 [m, H, d]: attention output of the rows of `rows` i32 [m] (prompt rows and steps);
    float32 from the fp16 values
flexgen_edge.bin: awkward rows, quantiser only
  x64 f16 [n, 1, 64], x32 f16 [n, 1, 32], x96 f16 [n, 1, 96];  {sim,up}{64,32,96}.{codes,scale,min,val}
  sim values are NaN where scale is 0 or inf (codes 0 or 255 there mean nothing); sim codes go above
  15 for subnormal scales.  up codes mean nothing where scale is inf (value = min) or 0 (value NaN).
"""
import argparse
import os

import numpy as np
import torch

import flexgen_oracle as fo
from kv_fixtures import read_file, stream, write_file

torch.set_num_threads(1)
F16 = torch.float16


def quant_arrays(prefix, codes, scale, mn, val):
    return {prefix + "codes": codes.numpy(), prefix + "scale": scale.numpy(), prefix + "min": mn.numpy(), prefix + "val": val.numpy()}


def flexgen_file(name, save):
    H, Hk, d = {"gqa": (4, 2, 64), "mha": (3, 3, 32)}[name]
    n, L = 40, 28
    q, k, v = stream(77, n, H, Hk, d)
    rows = [0, 1, 9, L - 1, L, L + 1, n - 1]
    arrays = {"param": np.array([H, Hk, d, n, L], "<i4"), "q": q.numpy(), "k": k.numpy(), "v": v.numpy(), "rows": np.array(rows, "<i4")}
    for p, lay in (("sim", fo.SimLayer(H, Hk, d)), ("up", fo.FlexGenLayer(H, Hk, d))):
        o = fo.run(lay, q.float(), k.float(), v.float(), L)["f32"]
        for c in "kv":
            arrays |= quant_arrays(f"{p}.{c}_", *(getattr(lay, f"{c}_{x}") for x in ("codes", "scale", "min", "val")))
        arrays[f"{p}.out"] = o[rows].contiguous().numpy()
    save(f"flexgen_{name}.bin", dict(method="flexgen", n_head=H, n_kv_head=Hk, head_dim=d, n_tokens=n, n_prompt=L), arrays)


def edge_rows(d):
    g = torch.Generator().manual_seed(3)
    tiny, i = 2.0 ** -24, torch.arange(d)
    r = [torch.full((d,), 0.75), torch.zeros(d), tiny * (i % 2), tiny * (i % 8), tiny * (i % 9), tiny * (i % 16), tiny * (i % 17),
         tiny * (i % 23), tiny * (i % 24), tiny * (i % 32), tiny * (i % 38), tiny * ((i * 7) % 218), tiny * ((i * 7) % 219),
         0.75 + tiny * (i % 2), (i % 31) * 0.5, (i % 31) * 0.5 - 7, torch.where(i % 2 == 0, 30000.0, -30000.0),
         torch.where(i % 2 == 0, 60000.0, -60000.0), 1000 + (i % 4).float(), torch.where(i == 5, 8.0, 0.001 * i),
         2.2e-4 * (i % 2), 2.289e-4 * (i % 2), 2.2900e-4 * (i % 3), 2.3e-4 * (i % 2), 3e-4 * (i % 16) / 15, 1.5e-5 * (i % 2), 6.2e-5 * (i % 16),
         -i.float(), torch.where(i < 32, -2.0, 0.01 * i), torch.where(i < 32, 0.0, -5.0 - 0.1 * i)]
    r += list(torch.randn(10, d, generator=g) * torch.logspace(-4, 3, 10)[:, None]) + list(torch.randn(6, d, generator=g) + 5)
    return torch.stack(r).to(F16)[:, None]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-o", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "kv"))
    a = ap.parse_args()

    def save(name, info, arrays):
        path = os.path.join(a.o, name)
        write_file(path, info, arrays)
        back = read_file(path)[1]
        assert all(np.array_equal(back[x], arrays[x], equal_nan=back[x].dtype.kind == "f") for x in arrays)
        print(f"{os.path.getsize(path):8d} {name}")
    for name in ("gqa", "mha"):
        flexgen_file(name, save)
    arrays = {}
    for d in (64, 32, 96):
        x = edge_rows(d)
        arrays[f"x{d}"] = x.numpy()
        arrays |= quant_arrays(f"sim{d}.", *fo.sim_codes(x)) | quant_arrays(f"up{d}.", *fo.flexgen_quantise(x))
    save("flexgen_edge.bin", dict(method="flexgen quantisers"), arrays)


if __name__ == "__main__":
    main()
