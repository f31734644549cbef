"""KIVI cache of ONE attention layer, transcribed from the public source.

Read from
  henryzhongsc/longctx_bench @ 72204d09  pipeline/kivi/models/llama_kivi.py,
                                         pipeline/kivi/quant/{new_pack,matmul}.py,
                                         pipeline/kivi/quant/csrc/gemv_cuda.cu
  jy-yuan/KIVI @ 876b4d2d                same files; the arithmetic does not differ.
                                         (The benchmark repeats the quantised K/V over
                                         the query heads of a group, KIVI indexes
                                         kv head = query head / ratio: same numbers.)

What the source does
--------------------
State: quantised K of tokens [0, nkq), full-precision K of [nkq, n);
       quantised V of tokens [0, nvq), full-precision V of [nvq, n).

Prompt of L tokens (attention over the prompt uses the uncompressed K and V):
  K: nkq = L - L % R      (R = residual length).  L < R: nothing is quantised.
                          L % R == 0: ALL of it is, the K window is empty.
  V: nvq = max(0, L - R)  the newest R rows stay, L <= R quantises nothing.

Decode step, in this order:
  1. the new K row joins the window; logits = [q.Kquant | q.Kwindow] / sqrt(d)
  2. if the window now has exactly R rows, all R are quantised, window is empty
     (logits of THIS step were already taken from the full-precision rows)
  3. softmax; the new V row joins the window, which may hold R + 1 rows now;
     out = p.Vquant + p.Vwindow
  4. if the V window has R + 1 rows, its oldest row is quantised
     (this step still used it in full precision).
So attend comes first, quantise second, for K and for V.

Quantiser (asymmetric, min/max, group of `group` values, everything is an fp16 tensor):
  K: the group is 32 consecutive TOKENS of one channel (head, channel); groups start at
     token 0 mod 32, because the quantised length is always a multiple of R.
  V: the group is 32 consecutive CHANNELS of one token.
  mn, mx   exact fp16 min and max
  scale  = fp16(fp16(mx - mn) / (2^bits - 1))
  code   = int(round_half_even(clamp(fp16(fp16(x - mn) / scale), 0, 2^bits - 1)))
Dequantisation happens inside the CUDA GEMV in float32: scale * code + mn.

Where the source leaves room, and what is chosen here
-----------------------------------------------------
A1 division by 2^bits-1: torch on CUDA turns tensor / python-scalar into a product with
   the float32 reciprocal.  For 3 and 15 that gives the same fp16 for every fp16 input
   (selftest() below checks all of them), so there is nothing to choose.
A2 division by scale: tensor / tensor, done in float32 and rounded to fp16.  float32 has
   24 >= 2*11+2 bits, so this equals the correctly rounded fp16 quotient.
A3 (x - mn) and (mx - mn) are ROUNDED TO FP16 before the division.  This is visible:
   computing x - mn in float32 gives other codes now and then.  The quotient too is
   rounded to fp16 before it is rounded to an integer: a true quotient just below or
   above k + 1/2 can land on the tie, which then goes to the even code.
A4 clamp before round, or after: same result, bounds are integers.
A5 round is half-to-even (torch.round / nearbyint), codes after a tie: .5->0, 1.5->2, 2.5->2.
A6 zero scale.  All values of a group equal: 0/0 = NaN, clamp and round keep NaN, and
   float NaN -> int32 is undefined in C; CUDA's cvt gives 0.  Chosen: code 0.
   The dequantised value is mn whatever the code is.
   Range too small (bits=2: 1 smallest subnormal; bits=4: up to 7): scale underflows to
   0 with x > mn present: +inf clamps to 2^bits-1.  Value again mn for all codes.
A7 mx - mn > 65504: scale = inf, codes 0 (finite/inf = 0, inf/inf = NaN -> 0), and the
   dequantised value is inf*0 + mn = NaN.  Not defended against by the source; kept here.
A8 sign of a zero minimum (min of -0 and +0) depends on the reduction; compare values.
A9 NaN in the input: triton min/max drop NaN, torch amin/amax keep it.  Not covered.
A10 order of summation in the GEMVs and cuBLAS fp16 matmuls is not fixed by the source.
   They sum in float32 and round to fp16 once per output.  `ref` sums in float64 and
   rounds once to fp16: at most the last fp16 bit can differ from the GPU.
A11 logits / sqrt(d): scalar division again, so product with float32(1/sqrt(d)) in
   float32, rounded to fp16.  selftest(): equal to the true division for every fp16 and
   d = 32, 64, 96, 128.
A12 the sum p.Vquant + p.Vwindow is made of two values already rounded to fp16, and is
   rounded to fp16 again.
A13 a 4-d mask of zeros is added in decode and logits are clamped from below at the fp16
   minimum: no effect unless a logit overflowed to -inf.
A14 the benchmark runs with use_flash_attn=true: prompt attention by flash-attn
   (uncompressed, fp16 in and out).  The decode branch is the same text in both classes.
"""
import math

import torch

F16, F32, F64 = torch.float16, torch.float32, torch.float64


def quantise_last_axis(x, group, bits):
    """fp16 tensor [..., n] -> codes uint8 [..., n], scale and min fp16 [..., n/group]."""
    assert x.dtype == F16 and x.shape[-1] % group == 0
    top = 2 ** bits - 1
    g = x.reshape(*x.shape[:-1], x.shape[-1] // group, group)
    mn, mx = g.amin(-1), g.amax(-1)
    inv = torch.tensor(1.0, dtype=F32) / torch.tensor(float(top), dtype=F32)
    scale = ((mx - mn).to(F32) * inv).to(F16)                 # A1
    r = (g - mn.unsqueeze(-1)) / scale.unsqueeze(-1)          # two fp16 roundings, A2, A3
    r = torch.round(torch.clamp(r.to(F32), 0.0, float(top)))  # A4, A5
    codes = torch.nan_to_num(r, nan=0.0).to(torch.uint8)      # A6
    return codes.reshape(x.shape), scale, mn


def quantise_k(k, group, bits):
    """k fp16 [Hk, n, d] -> codes [Hk, n, d], scale/min [Hk, n/group, d]; groups run over tokens."""
    c, s, m = quantise_last_axis(k.transpose(1, 2).contiguous(), group, bits)
    return (c.transpose(1, 2).contiguous(), s.transpose(1, 2).contiguous(),
            m.transpose(1, 2).contiguous())


def quantise_v(v, group, bits):
    """v fp16 [Hk, n, d] -> codes [Hk, n, d], scale/min [Hk, n, d/group]; groups run over channels."""
    return quantise_last_axis(v.contiguous(), group, bits)


def dequantise_k(codes, scale, mn, group):
    """float32 scale*code + min (the product is exact in float32, so fused or not is the same)."""
    s, m = (t.to(F32).repeat_interleave(group, 1) for t in (scale, mn))
    return codes.to(F32) * s + m


def dequantise_v(codes, scale, mn, group):
    s, m = (t.to(F32).repeat_interleave(group, 2) for t in (scale, mn))
    return codes.to(F32) * s + m


def dot16(a, b):
    """Product of matrices, exact sum (float64), one rounding to fp16 (A10)."""
    return torch.matmul(a.to(F64), b.to(F64)).to(F16)


class KiviLayer:
    """One layer.  prompt(k, v) once, then step(q, k, v) per generated token.

    Public state after each call:
      n                      tokens seen
      nkq, nvq               quantised tokens of K and of V
      k_codes [Hk,nkq,d] u8, k_scale, k_min [Hk,nkq/group,d] fp16
      v_codes [Hk,nvq,d] u8, v_scale, v_min [Hk,nvq,d/group] fp16
      k_win [Hk,n-nkq,d], v_win [Hk,n-nvq,d] fp16: tokens [nkq,n) and [nvq,n)
    """

    def __init__(self, n_head, n_kv_head, head_dim, bits=2, group=32, residual=128,
                 want_ref=True, window=F16):
        assert bits in (2, 4) and residual % group == 0 and head_dim % group == 0
        self.H, self.Hk, self.d = n_head, n_kv_head, head_dim
        self.bits, self.group, self.residual = bits, group, residual
        self.want_ref = want_ref
        self.window = window  # dtype the unquantised windows are kept in: upstream's is fp16
        e = lambda dt, *s: torch.empty(n_kv_head, *s, dtype=dt)
        d, g = head_dim, group
        self.k_codes, self.v_codes = e(torch.uint8, 0, d), e(torch.uint8, 0, d)
        self.k_scale, self.k_min = e(F16, 0, d), e(F16, 0, d)
        self.v_scale, self.v_min = e(F16, 0, d // g), e(F16, 0, d // g)
        self.k_win, self.v_win = e(window, 0, d), e(window, 0, d)
        self._kd, self._vd = e(F32, 0, d), e(F32, 0, d)      # dequantised, kept for speed
        self.n = 0

    @property
    def nkq(self):
        return self.k_codes.shape[1]

    @property
    def nvq(self):
        return self.v_codes.shape[1]

    def _push_k(self, k):
        c, s, m = quantise_k(k.to(F16), self.group, self.bits)
        self.k_codes = torch.cat([self.k_codes, c], 1)
        self.k_scale = torch.cat([self.k_scale, s], 1)
        self.k_min = torch.cat([self.k_min, m], 1)
        self._kd = torch.cat([self._kd, dequantise_k(c, s, m, self.group)], 1)

    def _push_v(self, v):
        c, s, m = quantise_v(v.to(F16), self.group, self.bits)
        self.v_codes = torch.cat([self.v_codes, c], 1)
        self.v_scale = torch.cat([self.v_scale, s], 1)
        self.v_min = torch.cat([self.v_min, m], 1)
        self._vd = torch.cat([self._vd, dequantise_v(c, s, m, self.group)], 1)

    def prompt(self, k, v):
        """k, v [L, Hk, d] float32, K after RoPE.  Stores the compressed prompt."""
        assert self.n == 0
        L, R = k.shape[0], self.residual
        k = k.to(self.window).transpose(0, 1).contiguous()
        v = v.to(self.window).transpose(0, 1).contiguous()
        nkq = L - L % R
        if nkq:
            self._push_k(k[:, :nkq])
        self.k_win = k[:, nkq:].contiguous()
        nvq = max(0, L - R)
        if nvq:
            self._push_v(v[:, :nvq])
        self.v_win = v[:, nvq:].contiguous()
        self.n = L

    def step(self, q, k, v):
        """q [H,d], k, v [Hk,d] float32.  -> {'ref': [H,d] fp16, 'f32': [H,d] float32}"""
        H, Hk, d, R = self.H, self.Hk, self.d, self.residual
        rep = H // Hk
        qf = q.to(F32).view(Hk, rep, d)               # head h reads kv head h // rep
        self.k_win = torch.cat([self.k_win, k.to(self.window).view(Hk, 1, d)], 1)
        kd_before, kwin_before = self._kd, self.k_win  # what this step's logits see
        if self.k_win.shape[1] == R:                   # flush, after the logits
            self._push_k(self.k_win)
            self.k_win = self.k_win[:, :0]
        self.v_win = torch.cat([self.v_win, v.to(self.window).view(Hk, 1, d)], 1)
        vd_before, vwin_before = self._vd, self.v_win
        if self.v_win.shape[1] > R:
            assert self.v_win.shape[1] == R + 1
            self._push_v(self.v_win[:, :1])
            self.v_win = self.v_win[:, 1:].contiguous()
        self.n += 1

        out = {"f32": self._attend_f32(qf, kd_before, kwin_before, vd_before, vwin_before)}
        if self.want_ref:
            out["ref"] = self._attend_ref(qf, kd_before, kwin_before, vd_before, vwin_before)
        return out

    def _attend_f32(self, q, kd, kw, vd, vw):
        k = torch.cat([kd, kw.to(F32)], 1)
        v = torch.cat([vd, vw.to(F32)], 1)
        p = torch.softmax(torch.matmul(q, k.transpose(1, 2)) / math.sqrt(self.d), -1)
        return torch.matmul(p, v).reshape(self.H, self.d)

    def _attend_ref(self, q, kd, kw, vd, vw):
        q = q.to(F16)
        lg = torch.cat([dot16(q, kd.transpose(1, 2)), dot16(q, kw.transpose(1, 2))], -1)
        inv = torch.tensor(1.0, dtype=F32) / torch.tensor(math.sqrt(self.d), dtype=F32)
        lg = (lg.to(F32) * inv).to(F16)                                     # A11
        lg = torch.maximum(lg, torch.tensor(torch.finfo(F16).min, dtype=F16))  # A13
        p = torch.softmax(lg.to(F32), -1).to(F16)
        nvq = vd.shape[1]
        o = dot16(p[..., nvq:], vw)
        if nvq:
            o = dot16(p[..., :nvq], vd) + o                                 # A12
        return o.reshape(self.H, self.d)


def causal_attention(q, k, v):
    """Uncompressed attention of the prompt: q [L,H,d], k,v [L,Hk,d], float32 -> [L,H,d]."""
    L, H, d = q.shape
    rep = H // k.shape[1]
    k, v = (t.to(F32).repeat_interleave(rep, 1).transpose(0, 1) for t in (k, v))
    s = torch.matmul(q.to(F32).transpose(0, 1), k.transpose(1, 2)) / math.sqrt(d)
    s = s.masked_fill(torch.ones(L, L, dtype=torch.bool).triu(1), float("-inf"))
    return torch.matmul(torch.softmax(s, -1), v).transpose(0, 1)


def run(q, k, v, n_prompt, bits=2, group=32, residual=128, on_state=None):
    """Whole sequence: the first n_prompt rows are the prompt, then one step per row.

    on_state(step, layer) is called after the prompt (step 0) and after each decode step.
    Returns (layer, refs [S,H,d] fp16, f32s [S,H,d]).
    """
    layer = KiviLayer(q.shape[1], k.shape[1], q.shape[2], bits, group, residual)
    layer.prompt(k[:n_prompt], v[:n_prompt])
    if on_state:
        on_state(0, layer)
    refs, f32s = [], []
    for t in range(n_prompt, q.shape[0]):
        o = layer.step(q[t], k[t], v[t])
        refs.append(o["ref"])
        f32s.append(o["f32"])
        if on_state:
            on_state(t - n_prompt + 1, layer)
    stack = lambda xs, dt: torch.stack(xs) if xs else torch.empty(0, *q.shape[1:], dtype=dt)
    return layer, stack(refs, F16), stack(f32s, F32)


def pack_int32(codes, bits):
    """The source's packing along the last axis: 32/bits codes per int32, first code lowest."""
    per = 32 // bits
    c = codes.to(torch.int64).reshape(*codes.shape[:-1], codes.shape[-1] // per, per)
    w = (c << (bits * torch.arange(per))).sum(-1)
    return torch.where(w >= 2 ** 31, w - 2 ** 32, w).to(torch.int32)


def selftest():
    """A1: range/3 and range/15, reciprocal against true division, for all fp16 >= 0."""
    x = torch.arange(0, 0x7C00, dtype=torch.int32).to(torch.int16).view(F16)
    for top in (3.0, 15.0):
        inv = torch.tensor(1.0, dtype=F32) / torch.tensor(top, dtype=F32)
        a = (x.to(F32) * inv).to(F16)
        b = (x.to(F64) / top).to(F16)
        print(f"A1 /{top:g}: {(a != b).sum().item()} of {x.numel()} differ")
    for d in (32, 64, 96, 128):
        inv = torch.tensor(1.0, dtype=F32) / torch.tensor(math.sqrt(d), dtype=F32)
        a = (x.to(F32) * inv).to(F16)
        b = (x.to(F64) / math.sqrt(d)).to(F16)
        print(f"A11 /sqrt({d}): {(a != b).sum().item()} of {x.numel()} differ")


if __name__ == "__main__":
    torch.set_num_threads(1)
    selftest()
