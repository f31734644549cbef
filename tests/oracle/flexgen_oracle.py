"""The two FlexGen 4-bit caches of one attention layer, transcribed from the public sources.

  SimLayer      the benchmark's simulation: henryzhongsc/longctx_bench @ 72204d09
                pipeline/flexgen/models/utils_quant.py (AsymGroupedQuantizer),
                {llama,mistral}_simquant.py (the flash-attention classes; config.use_flash is asserted
                by the configs, the other class never quantises)
  FlexGenLayer  FMInference/FlexLLMGen @ 004ffef: flexllmgen/compression.py (TorchCompressedDevice),
                pytorch_backend.py mha / mha_gen, flex_opt.py (group 64, group_dim 2 = head dim)

Benchmark (bits 4, group 32 consecutive CHANNELS of one token and kv head, K after RoPE)
----------------------------------------------------------------------------------------
F1  The cache keeps K, V uncompressed.  At EVERY forward, prompt included, the whole of K and V (the
    rows just added too) go through quantise-dequantise, and attention sees only the result:
    there is no full-precision window (residual_length 0 is asserted).  As a token's groups do not
    depend on other tokens, this equals quantising each row once when it is stored, with the
    prompt's own attention also using the dequantised rows.  Happens before kv heads are repeated.
F2  All operations give fp16:
        mn, mx  exact;  scale = fp16(fp16(mx - mn) / 15)
        r       = round_half_even(max(0, fp16(fp16(x - mn) / scale)))       no upper clamp!
        value   = fp16(fp16(r * scale) + mn)          two roundings, unlike KIVI's float32
F3  mx == mn: 0/0 = NaN -> value NaN for the whole group.  llama asserts that K and V hold no NaN
    and stops; in mistral the asserts are commented out and NaN goes into the attention.
    Also mx - mn < 8 * 2^-24: scale underflows to 0, mn becomes NaN (0/0) and the others
    inf * 0 = NaN.  Also mx - mn > 65504 (inf): scale = inf, value NaN.
F4  No upper clamp: r > 15 happens when scale is subnormal.  With mx - mn = m * 2^-24 the scale is
    s * 2^-24, s = rne(m / 15), the largest r is rne(m / s): m = 16..22 has s = 1 and r = m (up to
    22), m = 31 16, 32..37 s = 2 up to 18, 47..52 s = 3 up to 17, ... 56 ranges in all, the last
    m = 217 (1.3e-5; selftest lists them).  From there on r <= 15.  Real 4-bit storage cannot hold
    these; with a clamp at 15 the value differs by at most 7 * 2^-24.  `codes` below holds r as it is.
F5  division by 15 on CUDA is a product with the float32 reciprocal; same fp16 (A1, kivi_oracle.py).
F6  flash attention computes in float32 from fp16 inputs with inner roundings that the source
    does not fix.  `ref` here: float32 attention over the fp16 values, result rounded to fp16.

FlexGen itself (bits 4, group 64 along head_dim)
------------------------------------------------
G1  Prompt attention uses UNCOMPRESSED k, v; they are compressed when stored.  A decode step
    decompresses the whole cache, writes its own k, v uncompressed over row src_s - 1, attends,
    and compresses its own row afterwards: the newest token is exact in its own step only.
G2  On the GPU all is fp16:
        mn, mx exact;  scale = fp16(fp16(1 / fp16(mx - mn)) * 15)    (a multiplier, not a step)
    (`B / tensor` in torch is tensor.reciprocal() * B: TWO roundings)
        code  = round_half_even(clamp(fp16(fp16(x - mn) * scale), 0, 15))
        value = fp16(fp16(code / scale) + mn)
    On a CPU tensor compress() converts to float32 first and stores scale and mn as fp16 later;
    only the GPU arithmetic is transcribed.
G3  head_dim is padded with ZEROS to a multiple of 64 and the zeros take part in min and max
    (head_dim 32: one group per row whose range always contains 0; head_dim 80, 96: the second).
G4  mx == mn: scale = inf; 0 * inf = NaN, clamp and round keep it, NaN -> uint8 is undefined
    (0 here).  value = code / inf + mn = mn whatever the code.  The same when mx - mn <=
    2.2900e-4 (fp16), where the product overflows: all values become mn.
    mx - mn = inf: scale = 0: 0/0 = NaN for values; code 0 (x - mn finite or inf * 0 = NaN).
G5  Packing: even channels in the HIGH nibble, odd ones in the low nibble.
G6  Attention of a decode step: q is scaled by fp16(q * d^-0.5) BEFORE the product, all steps fp16:
    w = fp16(q.k), p = fp16(softmax(w)), out = fp16(p.v).  FlexGen knows OPT only (no RoPE, no
    GQA); applied to llama here: K after RoPE is what is stored, as in the benchmark.
"""
import math

import torch

F16, F32, F64 = torch.float16, torch.float32, torch.float64


def sim_quantise(x, group=32, bits=4):
    """x [..., d] -> r fp16 [..., d] (may hold NaN, inf, > 15), scale, mn, values fp16.  F2."""
    assert x.shape[-1] % group == 0
    g = x.to(F16).reshape(*x.shape[:-1], x.shape[-1] // group, group)
    mx, mn = g.max(-1, keepdim=True)[0], g.min(-1, keepdim=True)[0]
    scale = ((mx - mn).to(F32) / (2 ** bits - 1)).to(F16)
    r = torch.relu((g - mn) / scale).round()
    val = r * scale + mn
    return r.reshape(x.shape), scale.squeeze(-1), mn.squeeze(-1), val.reshape(x.shape)


def sim_codes(x, group=32, bits=4):
    """As sim_quantise with uint8 codes: NaN -> 0, inf -> 255 (both only where the value is NaN)."""
    r, scale, mn, val = sim_quantise(x, group, bits)
    return torch.nan_to_num(r.to(F32), nan=0.0, posinf=255.0).to(torch.uint8), scale, mn, val


def flexgen_quantise(x, group=64, bits=4):
    """x [..., d] -> codes uint8 [..., d], scale, mn fp16 [..., groups], values fp16 [..., d].  G2..G4.

    codes are those of the unpadded channels.
    """
    d, top = x.shape[-1], 2 ** bits - 1
    ng = -(-d // group)
    g = torch.nn.functional.pad(x.to(F16), (0, ng * group - d)).reshape(*x.shape[:-1], ng, group)
    mn, mx = g.min(-1, keepdim=True)[0], g.max(-1, keepdim=True)[0]
    scale = (mx - mn).reciprocal() * top
    r = torch.round(torch.clamp((g - mn) * scale, 0, top))
    codes = torch.nan_to_num(r.to(F32), nan=0.0).to(torch.uint8)
    val = (codes.to(F16) / scale) + mn
    cut = lambda t: t.reshape(*x.shape[:-1], ng * group)[..., :d].contiguous()
    return cut(codes), scale.squeeze(-1), mn.squeeze(-1), cut(val)


def pack_flexgen(codes):
    """[..., d] -> [..., d/2]: even channel high nibble (G5)."""
    return (codes[..., 0::2] << 4) | codes[..., 1::2]


def attend(q, k, v, causal=False):
    """float32 attention: q [m,H,d], k, v [n,Hk,d]."""
    rep, d = q.shape[1] // k.shape[1], q.shape[2]
    q, (k, v) = q.to(F32).transpose(0, 1), (t.to(F32).transpose(0, 1).repeat_interleave(rep, 0) for t in (k, v))
    w = torch.matmul(q, k.transpose(1, 2)) / math.sqrt(d)
    if causal:
        w = w.masked_fill(torch.ones(w.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
    return torch.matmul(torch.softmax(w, -1), v).transpose(0, 1)


def attend_fp16(q, k, v):
    """FlexGen's decode arithmetic (G6): q [1,H,d] -> fp16."""
    rep, d = q.shape[1] // k.shape[1], q.shape[2]
    q = (q.to(F16).transpose(0, 1) * (d ** -0.5))
    k, v = (t.transpose(0, 1).repeat_interleave(rep, 0).to(F64) for t in (k, v))
    w = torch.matmul(q.to(F64), k.transpose(1, 2)).to(F16)
    p = torch.softmax(w.to(F32), -1).to(F16)
    return torch.matmul(p.to(F64), v).to(F16).transpose(0, 1)


class _Layer:
    def __init__(self, n_head, n_kv_head, head_dim, group, bits=4):
        self.H, self.Hk, self.d, self.group, self.bits = n_head, n_kv_head, head_dim, group, bits
        e = lambda t, *s: torch.empty(0, n_kv_head, *s, dtype=t)
        ng = -(-head_dim // group)
        self.k_codes, self.v_codes = e(torch.uint8, head_dim), e(torch.uint8, head_dim)
        self.k_scale, self.k_min, self.v_scale, self.v_min = (e(F16, ng) for _ in range(4))
        self.k_val, self.v_val = e(F16, head_dim), e(F16, head_dim)

    @property
    def n(self):
        return self.k_codes.shape[0]

    def _push(self, k, v):
        for c, x in (("k", k), ("v", v)):
            for f, t in zip(("codes", "scale", "min", "val"), self.quantise(x.to(F16), self.group, self.bits)):
                name = f"{c}_{f}"
                setattr(self, name, torch.cat([getattr(self, name), t]))


class SimLayer(_Layer):
    """The benchmark's layer.  Rows already rotated; prompt(q, k, v) once, then step(q, k, v).

    Returns {'f32': float32, 'ref': fp16} of [L, H, d] / [H, d].  State k_codes u8 [n, Hk, d] (F4),
    k_scale, k_min fp16 [n, Hk, d/group], k_val fp16 [n, Hk, d]; v_* likewise.
    """
    quantise = staticmethod(sim_codes)

    def __init__(self, n_head, n_kv_head, head_dim, group=32, bits=4):
        super().__init__(n_head, n_kv_head, head_dim, group, bits)

    def prompt(self, q, k, v):
        self._push(k, v)
        return {"f32": attend(q, self.k_val, self.v_val, True),
                "ref": attend(q.to(F16), self.k_val, self.v_val, True).to(F16)}

    def step(self, q, k, v):
        self._push(k[None], v[None])
        return {"f32": attend(q[None], self.k_val, self.v_val)[0],
                "ref": attend(q[None].to(F16), self.k_val, self.v_val)[0].to(F16)}


class FlexGenLayer(_Layer):
    """FlexGen's own layer; same interface.  The current row is exact in its own step (G1).

    own16: the current row is rounded to fp16 before use, as in the source (default); False keeps
    it float32 for 'f32' outputs in a float32 model.
    """
    quantise = staticmethod(flexgen_quantise)

    def __init__(self, n_head, n_kv_head, head_dim, group=64, bits=4, own16=True):
        super().__init__(n_head, n_kv_head, head_dim, group, bits)
        self.own = F16 if own16 else F32

    def prompt(self, q, k, v):
        o = attend(q, k.to(self.own), v.to(self.own), True)
        self._push(k, v)
        return {"f32": o, "ref": o.to(F16)}

    def step(self, q, k, v):
        cat = lambda val, x, t: torch.cat([val.to(t), x.to(t)[None]])
        kk, vv = cat(self.k_val, k, self.own), cat(self.v_val, v, self.own)
        out = {"f32": attend(q[None], kk, vv)[0],
               "ref": attend_fp16(q[None], cat(self.k_val, k, F16), cat(self.v_val, v, F16))[0]}
        self._push(k[None], v[None])
        return out


def run(layer, q, k, v, n_prompt):
    """Whole sequence -> {'f32': [T,H,d], 'ref': [T,H,d]}."""
    o = layer.prompt(q[:n_prompt], k[:n_prompt], v[:n_prompt])
    rows = [layer.step(q[t], k[t], v[t]) for t in range(n_prompt, q.shape[0])]
    return {x: torch.cat([o[x]] + [r[x][None] for r in rows]) for x in ("f32", "ref")}


def selftest():
    """F4: largest r for every range below 2^-10; all fp16 ranges: with a normal scale never above 15."""
    m = torch.arange(1, 0x7C00, dtype=torch.int32).to(torch.int16).view(F16)       # ranges > 0
    s = (m.to(F32) / 15).to(F16)
    r = torch.round(m / s)
    over = torch.nonzero((r > 15) & (s > 0)).flatten() + 1
    print(f"F4: zero scale for ranges up to {int((s == 0).sum())} * 2^-24; r > 15 at {len(over)} ranges, first "
          f"{over[:40].tolist()} * 2^-24 (largest r {r[over - 1].max():g}), last {m[over[-1] - 1].item():.3e} = "
          f"{over[-1].item()} * 2^-24; fp16 patterns")
    sc = m.reciprocal() * 15
    top = torch.round(m * sc)
    print(f"G4: 15/range is inf up to range {m[sc.isinf()].max().item():.4e}; m*scale rounds to other than 15 at "
          f"{((top != 15) & ~sc.isinf()).sum()} ranges (values {sorted(set(top[~sc.isinf()].tolist()))}); "
          f"largest |15/scale - range|/range {((15 / sc.to(F32) - m.to(F32)).abs() / m.to(F32))[~sc.isinf()].max():.1e}; "
          f"one rounding would give another scale for {int(((15 / m.to(F32)).to(F16) != sc).sum())} ranges")
    inv = torch.tensor(1.0, dtype=F32) / 15
    print("F5:", int(((m.to(F32) * inv).to(F16) != s).sum()), "ranges differ with the reciprocal")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        selftest()
