"""Run the upstream sources themselves on the CPU and compare the oracles with them.

  kv_verify_upstream.py --longctx GITDIR [--only kivi,stream,infllm,triton]

GITDIR is a bare clone of henryzhongsc/longctx_bench.  Nothing of upstream is stored here:
the files are read from git, adapted to the CPU in memory, and executed.

KIVI
  - new_pack.py runs in Triton's interpreter (TRITON_INTERPRET=1): the real min/max and
    packing kernels, with torch CPU fp16 in between.  The float NaN -> int32 conversion is
    the one line where x86 and CUDA differ; it is patched to CUDA's result (0), see A6.
  - gemv_cuda.cu: the two bgemv*_outer_dim kernels are compiled by g++ behind a small shim
    (blockIdx/threadIdx as globals, half as _Float16, the warp reduction emulated by
    running every lane twice: once to collect, once to reduce in the kernel's tree order).
  - llama_kivi.py: the bodies of LlamaAttention_KIVI.forward and LlamaFlashAttention_KIVI
    .forward are executed with identity projections and identity RoPE.
StreamingLLM / InfLLM
  - rope.py, torch_impl.py, stream_llm.py, context_manager.py run with 'cuda' replaced by
    'cpu' and CUDA streams/events stubbed.
  - triton_impl.py, what the GPU runs (fattn=true), in Triton's interpreter.
"""
import argparse
import ast
import contextlib
import ctypes
import math
import os
import re
import subprocess
import sys
import tempfile
import types

os.environ["TRITON_INTERPRET"] = "1"
import numpy as np
import torch
from torch import nn

import kivi_oracle as ko
import streaming_oracle as so

torch.set_num_threads(1)
F16, F32 = torch.float16, torch.float32


def show(gitdir, path):
    return subprocess.check_output(["git", "--git-dir=" + gitdir, "show", "HEAD:" + path], text=True)


# ---------------------------------------------------------------- CUDA GEMV on the CPU
SHIM = r"""
#include <cstdint>
#include <cstddef>
#include <vector>
typedef _Float16 half;
struct D3 { int x, y, z; };
static D3 blockIdx, threadIdx, blockDim;
static std::vector<std::vector<float>> rec(32);
static size_t pos; static int pass_;
static inline float __half2float(half h) { return (float)h; }
static inline half __float2half(float f) { return (half)f; }
static float warp_reduce_sum(float s) {
  if (pass_ == 0) { rec[threadIdx.x].push_back(s); return 0; }
  float v[64];
  for (int l = 0; l < 32; l++) v[l] = rec[l][pos];
  for (int o = 16; o; o >>= 1) { for (int l = 0; l < 32 - o; l++) v[l] = v[l] + v[l + o]; }
  pos++; return v[0];
}
#define __global__ static
struct float4 { float a, b, c, d; };
"""
DRIVER = r"""
extern "C" void gemv_outer(const half *in, const uint32_t *w, const half *z, const half *s,
                           half *out, int BS, int IC, int OC, int bit, int group) {
  int pf = 32 / bit; blockDim = {32, 4, 1};
  for (int b = 0; b < BS; b++) for (int y = 0; y < (OC / pf + 3) / 4; y++) for (int ty = 0; ty < 4; ty++) {
    blockIdx = {b, y, 0};
    for (auto &r : rec) r.clear();
    for (pass_ = 0; pass_ < 2; pass_++) { pos = 0;
      for (int l = 0; l < (pass_ ? 1 : 32); l++) { threadIdx = {l, ty, 0};
        if (bit == 4) bgemv4_kernel_outer_dim(in, w, z, s, out, IC, OC, group, 1, false);
        else bgemv2_kernel_outer_dim(in, w, z, s, out, IC, OC, group, 1, false); } }
  }
}
"""


def build_gemv(cu):
    """Kernels cut from the .cu text by brace matching, compiled with fused multiply-add."""
    body = ""
    for name in ("bgemv4_kernel_outer_dim", "bgemv2_kernel_outer_dim"):
        i = cu.index("__global__ void " + name)
        j, depth = cu.index("{", i), 0
        while True:
            depth += {"{": 1, "}": -1}.get(cu[j], 0)
            j += 1
            if depth == 0:
                break
        # the .cu comments hold braces in pairs only, checked by the compiler
        body += cu[i:j] + "\n"
    d = tempfile.mkdtemp()
    open(d + "/g.cpp", "w").write(SHIM + body + DRIVER)
    subprocess.check_call(["g++", "-O2", "-march=native", "-ffp-contract=fast", "-w", "-shared",
                           "-fPIC", d + "/g.cpp", "-o", d + "/g.so"])
    lib = ctypes.CDLL(d + "/g.so")

    def gemv(fA, qB, scales, zeros, bits, group, nh, mqa):
        fA, qB, scales, zeros = (t.contiguous() for t in (fA, qB, scales, zeros))
        BS, M, IC = fA.shape
        assert M == 1 and not mqa
        OC = zeros.shape[1] * group
        out = torch.empty(BS, 1, OC, dtype=F16)
        lib.gemv_outer(*(ctypes.c_void_p(t.data_ptr()) for t in (fA, qB, zeros, scales, out)),
                       BS, IC, OC, bits, group)
        return out
    return gemv


def load_kivi(gitdir):
    base = "pipeline/kivi/"
    ns = {"__name__": "up_new_pack"}
    d = tempfile.mkdtemp()
    text = show(gitdir, base + "quant/new_pack.py")
    # float NaN -> int32: 0 on CUDA (cvt.rzi), INT_MIN on x86.  Make the CPU do as CUDA does (A6).
    text, n = re.subn(r"round_\(\)\.to\(torch\.int32\)", "round_().nan_to_num_(nan=0.).to(torch.int32)", text)
    assert n >= 1
    open(d + "/up_new_pack.py", "w").write(text)
    sys.path.insert(0, d)
    import up_new_pack
    quant = up_new_pack.triton_quantize_and_pack_along_last_dim
    gemv = build_gemv(show(gitdir, base + "quant/csrc/gemv_cuda.cu"))
    # cuda_bmm_fA_qB_outer from matmul.py, with our compiled kernel as kivi_gemv
    tree = ast.parse(show(gitdir, base + "quant/matmul.py").lstrip())
    fn = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "cuda_bmm_fA_qB_outer"]
    mns = {"torch": torch, "kivi_gemv": types.SimpleNamespace(gemv_forward_cuda_outer_dim=gemv)}
    exec(compile(ast.Module(fn, []), "matmul.py", "exec"), mns)

    tree = ast.parse(show(gitdir, base + "models/llama_kivi.py"))
    keep = [n for n in tree.body if (isinstance(n, ast.FunctionDef) and n.name == "repeat_kv_quant")
            or (isinstance(n, ast.ClassDef) and n.name in ("LlamaAttention_KIVI", "LlamaFlashAttention_KIVI"))]
    from typing import Optional, Tuple, List
    rep = lambda x, n: x if n == 1 else x.repeat_interleave(n, 1)
    lns = dict(torch=torch, nn=nn, math=math, Optional=Optional, Tuple=Tuple, List=List,
               F=nn.functional, LlamaConfig=object, repeat_kv=rep,
               apply_rotary_pos_emb=lambda q, k, c, s, p: (q, k),
               cuda_bmm_fA_qB_outer=mns["cuda_bmm_fA_qB_outer"],
               triton_quantize_and_pack_along_last_dim=quant, warnings=None, logger=None)
    exec(compile(ast.Module(keep, []), "llama_kivi.py", "exec"), lns)
    return quant, lns["LlamaAttention_KIVI"], lns["LlamaFlashAttention_KIVI"]


class Fixed(nn.Module):
    """A 'projection' that returns the rows it was given."""
    def __init__(self):
        super().__init__()
        self.rows = None

    def forward(self, x):
        return self.rows


def make_attn(cls, H, Hk, d, bits, group, residual):
    m = cls.__new__(cls)
    nn.Module.__init__(m)
    m.config = types.SimpleNamespace(pretraining_tp=1)
    m.hidden_size, m.num_heads, m.head_dim = H * d, H, d
    m.num_key_value_heads, m.num_key_value_groups = Hk, H // Hk
    m.k_bits = m.v_bits = bits
    m.group_size, m.residual_length, m.is_causal = group, residual, True
    m.q_proj, m.k_proj, m.v_proj, m.o_proj = Fixed(), Fixed(), Fixed(), nn.Identity()
    m.rotary_emb = lambda v, seq_len: (None, None)

    def flash(q, k, v, mask, n, dropout=0.0):        # [1, L, H, d]: any exact attention will do
        return torch.zeros_like(q)
    if "Flash" in cls.__name__:
        m._flash_attention_forward = flash
    return m


def unpack(w, bits):
    per = 32 // bits
    x = (w.to(torch.int64).unsqueeze(-1) >> (bits * torch.arange(per))) & (2 ** bits - 1)
    return x.reshape(*w.shape[:-1], -1).to(torch.uint8)


def check_kivi(gitdir):
    quant, A, FA = load_kivi(gitdir)
    g = torch.Generator().manual_seed(5)
    bad = 0

    # 1. the quantiser, element by element, on awkward data
    for bits in (2, 4):
        x = torch.randn(1, 2, 16, 128, generator=g)
        x[0, 0, 1] *= 1e-4                               # subnormal differences
        x[0, 0, 2] *= 3e4                                # large
        x[0, 0, 3] = torch.round(x[0, 0, 3] * 2) / 2     # many ties
        x[0, 0, 4] += 1000                               # few bits left
        x[0, 0, 5] = 2.0 ** -24 * torch.randint(0, 9, (128,), generator=g)
        x[0, 1, 0, :32] = 0.5                            # zero scale
        x = x.clamp(-6e4, 6e4).to(F16)
        code, sc, mn = quant(x.clone(), 32, bits)
        c2, s2, m2 = ko.quantise_last_axis(x[0], 32, bits)
        c1 = unpack(code[0], bits)
        n = (c1 != c2).sum().item()
        print(f"quantiser bits={bits}: codes differ {n} of {c2.numel()} "
              f"({(s2 == 0).sum().item()} zero and {(s2.isinf()).sum().item()} infinite scales among them), scale {(sc[0] != s2).sum().item()}, "
              f"min {(mn[0] != m2).sum().item()}; pack {(ko.pack_int32(c1, bits) != code[0]).sum().item()}")
        bad += n + (sc[0] != s2).sum().item() + (mn[0] != m2).sum().item()

    # 2. whole layers: state after every step and attention output
    for cls in (A, FA):
        for (H, Hk, d) in ((6, 2, 64), (4, 4, 32), (2, 1, 128)):
            for bits in (2, 4):
                for L, S in ((5, 3), (100, 40), (127, 4), (128, 4), (129, 4), (256, 3), (300, 90)):
                    bad += one_kivi(cls, H, Hk, d, bits, L, S, g)
    return bad


def one_kivi(cls, H, Hk, d, bits, L, S, g):
    T = L + S
    q = torch.randn(T, H, d, generator=g) * 1.5
    k = torch.randn(T, Hk, d, generator=g) + 4 * torch.randn(1, Hk, d, generator=g)
    v = torch.randn(T, Hk, d, generator=g)
    q, k, v = (t.to(F16) for t in (q, k, v))
    m = make_attn(cls, H, Hk, d, bits, 32, 128)
    layer = ko.KiviLayer(H, Hk, d, bits)
    layer.prompt(k[:L].float(), v[:L].float())
    past, worst, state_bad, exact, total, f32d = None, 0.0, 0, 0, 0, 0.0

    def feed(a, b, past):
        m.q_proj.rows, m.k_proj.rows, m.v_proj.rows = (t[a:b].reshape(1, b - a, -1) for t in (q, k, v))
        mask = None
        if b - a > 1:
            mask = torch.full((b - a, b - a), torch.finfo(F16).min, dtype=F16).triu(1)[None, None]
        o, _, past = m.forward(torch.zeros(1, b - a, H * d, dtype=F16), attention_mask=mask,
                               past_key_value=past, use_cache=True)
        return o.view(b - a, H, d), past

    o, past = feed(0, L, None)
    if "Flash" not in cls.__name__:
        w = ko.causal_attention(q[:L].float(), k[:L].float(), v[:L].float())
        assert (o.float() - w).abs().max() < 2e-2
    for t in range(L, T + 1):
        kq, kf, ks, km, vq, vf, vs, vm, n = past
        # compare states
        pairs = [(n, layer.n),
                 (0 if kq is None else unpack(kq[0], bits).shape[-1], layer.nkq),
                 (0 if vq is None else vq.shape[2], layer.nvq),
                 (0 if kf is None else kf.shape[2], layer.n - layer.nkq), (vf.shape[2], layer.n - layer.nvq)]
        state_bad += sum(a != b for a, b in pairs)
        if kq is not None:
            state_bad += (unpack(kq[0], bits).transpose(1, 2) != layer.k_codes).sum().item()
            state_bad += (ks[0].transpose(1, 2) != layer.k_scale).sum().item()
            state_bad += (km[0].transpose(1, 2) != layer.k_min).sum().item()
        if vq is not None:
            state_bad += (unpack(vq[0], bits) != layer.v_codes).sum().item()
            state_bad += (vs[0] != layer.v_scale).sum().item() + (vm[0] != layer.v_min).sum().item()
        if kf is not None:
            state_bad += (kf[0] != layer.k_win).sum().item()
        state_bad += (vf[0] != layer.v_win).sum().item()
        if t == T:
            break
        o, past = feed(t, t + 1, past)
        mine = layer.step(q[t].float(), k[t].float(), v[t].float())
        worst = max(worst, (o[0].float() - mine["ref"].float()).abs().max().item())
        f32d = max(f32d, (mine["f32"] - mine["ref"].float()).abs().max().item())
        exact += (o[0] == mine["ref"]).sum().item()
        total += mine["ref"].numel()
    ok = state_bad == 0 and worst < 4e-3
    print(f"{'ok ' if ok else 'BAD'} {cls.__name__:24s} H={H} Hk={Hk} d={d} bits={bits} L={L:3d}+{S:2d}: "
          f"state differences {state_bad}; output ref: {exact}/{total} bit-equal, max diff {worst:.2e}; "
          f"f32 vs ref {f32d:.2e}")
    return 0 if ok else 1


# ---------------------------------------------------------------- StreamingLLM, InfLLM
def load_stream(gitdir):
    """Package up_att with rope, torch attention, stream_llm and context_manager on the CPU."""
    base = "pipeline/inf_stream_llm/inf_llm/attention/"
    d = tempfile.mkdtemp()
    os.makedirs(d + "/up_att/dot_production_attention")
    for f in ("utils.py", "rope.py", "stream_llm.py", "context_manager.py", "inf_llm.py",
              "dot_production_attention/__init__.py", "dot_production_attention/base.py",
              "dot_production_attention/torch_impl.py", "dot_production_attention/triton_impl.py"):
        s = show(gitdir, base + f)
        s = re.sub(r"""(["'])cuda\1""", '"cpu"', s)
        s = s.replace("assert _t.is_cuda", "pass").replace("import pdb", "")
        open(d + "/up_att/" + f, "w").write(s)
    open(d + "/up_att/__init__.py", "w").write("")
    sys.path.insert(0, d)

    class Ev:
        def record(self, *a): pass
        def wait(self, *a): pass
    torch.cuda.stream = lambda s: contextlib.nullcontext()
    torch.cuda.Event = Ev
    torch.cuda.current_stream = lambda *a: None
    from up_att import rope, stream_llm, inf_llm
    return rope.RotaryEmbeddingESM, stream_llm.stream_llm_forward, inf_llm.inf_llm_forward


def call_attention(fwd, rope, past, q, k, v):
    n, H, d = q.shape
    Hk = k.shape[1]
    x = torch.zeros(1, n, 1)
    o, past = fwd(None, x, x, rope, True, past, lambda _: q.reshape(1, n, -1),
                  lambda _: k.reshape(1, n, -1), lambda _: v.reshape(1, n, -1), lambda y: y, d, H, Hk)
    return o.view(n, H, d), past


def check_stream(gitdir):
    RopeUp, stream_forward, _ = load_stream(gitdir)
    g = torch.Generator().manual_seed(6)
    bad = 0
    for (H, Hk, d) in ((6, 2, 64), (4, 4, 32)):
        T, L = 300, 260
        q, k, v = (torch.randn(T, h, d, generator=g) for h in (H, Hk, Hk))
        for n_init, n_local in ((4, 60), (1, 1), (10, 128), (2, 500), (0, 7), (64, 64), (100, 128), (3, 259), (5, 255)):
            for fac in (None, 8.0):
                outs = {}
                for chunk in (64, 8192, 17):
                    fwd = stream_forward(n_local, n_init, False)
                    rope = RopeUp(d, 10000.0, 1.0, fac)
                    past, ref = None, []
                    cuts = list(range(0, L - 1, chunk)) + list(range(L - 1, T)) + [T]
                    for a, b in zip(cuts, cuts[1:]):
                        o, past = call_attention(fwd, rope, past, q[a:b], k[a:b], v[a:b])
                        ref.append(o)
                    ref = torch.cat(ref)
                    mine = so.run(q, k, v, L, n_init, n_local, chunk, 10000.0, fac)
                    outs[chunk] = (ref, mine)
                d1 = max((a - b).abs().max().item() for a, b in outs.values())
                d2 = max((outs[64][0] - outs[c][0]).abs().max().item() for c in (17, 8192))
                ok = d1 < 1e-5
                bad += not ok
                print(f"{'ok ' if ok else 'BAD'} stream H={H} Hk={Hk} d={d} init={n_init} local={n_local} factor={fac}: "
                      f"oracle - upstream {d1:.1e}; upstream chunk 64 - 17/8192 {d2:.1e}")
    return bad


def check_infllm(gitdir):
    import infllm_oracle as io
    RopeUp, _, inf_forward = load_stream(gitdir)
    g = torch.Generator().manual_seed(7)
    bad = 0
    for (H, Hk, d) in ((6, 2, 64), (4, 4, 32)):
        for n_init, n_local, topk, block, exc, rk in ((4, 64, 2, 16, 32, 4), (8, 40, 3, 8, 40, 2), (0, 32, 2, 16, 32, 1),
                                                      (5, 64, 0, 16, 32, 4), (4, 64, 40, 16, 32, 4), (3, 50, 3, 16, 7, 4)):
            T, L, chunk = 420, 390, 128
            q, k, v = (torch.randn(T, h, d, generator=g) for h in (H, Hk, Hk))
            fwd = inf_forward(n_local, n_init, topk, block, topk, exc, False, repr_topk=rk,
                              async_global_stream=False)
            rope = RopeUp(d, 10000.0, 1.0, None)
            lay = io.InfLLMLayer(H, Hk, d, n_init, n_local, topk, block, exc, rk)
            past, dmax, rep, steps = None, 0.0, 0.0, 0
            cuts = list(range(0, L - 1, chunk)) + list(range(L - 1, T)) + [T]
            for a, b in zip(cuts, cuts[1:]):
                o, past = call_attention(fwd, rope, past, q[a:b], k[a:b], v[a:b])
                m = lay.forward(q[a:b], k[a:b], v[a:b])
                dmax = max(dmax, (o - m).abs().max().item())
                nb = past.num_global_block
                assert nb == len(lay.reprs), (nb, len(lay.reprs))
                if nb:
                    rep = max(rep, (past.block_k[0].get_data() - torch.stack(lay.reprs).reshape(nb, -1)).abs().max().item())
                assert past.length == lay.n
                assert past.init_k.shape[-2] == lay.init_k.shape[1]
                assert past.global_remainder[0].shape[-2] == lay.rem_k.shape[1]
                want = sorted(past.global_buffer_block_id_list[0][:len(lay.chosen[-1])])
                assert want == sorted(lay.chosen[-1]), (want, lay.chosen[-1])
                steps += 1
            ok = dmax < 2e-5 and rep < 1e-5
            bad += not ok
            print(f"{'ok ' if ok else 'BAD'} infllm H={H} Hk={Hk} init={n_init} local={n_local} topk={topk} block={block} "
                  f"exc={exc} repr={rk}: blocks {nb}, output diff {dmax:.1e}, representative diff {rep:.1e}, {steps} calls")
    return bad


def check_triton(gitdir):
    """The GPU path (fattn=true): Triton attention in the interpreter, float32 inputs.

    StreamingLLM has to agree with the oracle.  For InfLLM it shows effect I5: the scores of
    a one-row step when the number of local keys is a multiple of 64.
    """
    import triton
    from triton.runtime import interpreter
    if tuple(int(x) for x in triton.__version__.split(".")[:2]) > (3, 3):
        print("skipped: upstream's kernel needs tl.make_block_ptr; run with an older Triton in front, e.g.\n"
              "  pip install --no-deps --target DIR triton==3.2.0;  PYTHONPATH=DIR kv_verify_upstream.py --only triton")
        return 0
    old = interpreter._patch_lang_tensor      # its int(one-element array) fails with numpy >= 2.4

    def patched(tensor):
        old(tensor)
        tensor.__index__ = lambda self: int(self.handle.data.item())
    interpreter._patch_lang_tensor = patched
    RopeUp, stream_forward, _ = load_stream(gitdir)
    from up_att.dot_production_attention.triton_impl import TritonMultiStageDotProductionAttention as Tri
    from up_att.dot_production_attention.torch_impl import TorchMultiStageDotProductionAttention as Tor
    g = torch.Generator().manual_seed(8)
    bad = 0
    H, Hk, d, T, L = 2, 1, 32, 200, 196
    q, k, v = (torch.randn(T, h, d, generator=g) for h in (H, Hk, Hk))
    for n_init, n_local in ((4, 60), (10, 128), (1, 1), (2, 500), (5, 64)):
        fwd, rope = stream_forward(n_local, n_init, True), RopeUp(d, 10000.0, 1.0, None)
        past, ref = None, []
        cuts = list(range(0, L - 1, 70)) + list(range(L - 1, T)) + [T]
        for a, b in zip(cuts, cuts[1:]):
            o, past = call_attention(fwd, rope, past, q[a:b], k[a:b], v[a:b])
            ref.append(o)
        dm = (torch.cat(ref) - so.run(q, k, v, L, n_init, n_local, 70)).abs().max().item()
        bad += not dm < 1e-5
        print(f"{'ok ' if dm < 1e-5 else 'BAD'} triton stream init={n_init} local={n_local}: oracle - upstream {dm:.1e}")
    for n in (96, 128):
        qq, kk, vv = torch.randn(1, H, 1, d, generator=g), torch.randn(1, Hk, n, d, generator=g), torch.randn(1, Hk, n, d, generator=g)
        r = []
        for C in (Tri, Tor):
            at = C(qq.shape, qq.dtype, qq.device)
            at.append(qq, kk, vv, get_score=True, sliding_window=64)
            at.append(qq, kk[:, :, :0], vv[:, :, :0], end=True, sliding_window=(n, 64), complement_sliding_window=True)
            o, sc = at.get_result()
            r.append((o[:, :, :1], sc[0]))
        print(f"    I5, one row, {n} keys: output triton - torch {(r[0][0] - r[1][0]).abs().max():.1e}, "
              f"scores triton sum {r[0][1].sum(-1).flatten().tolist()}, torch sum {r[1][1].sum(-1).flatten().tolist()}")
    return bad


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("--longctx", required=True)
    ap.add_argument("--only", default="kivi,stream,infllm,triton")
    a = ap.parse_args()
    bad = 0
    with torch.no_grad():
        for part in a.only.split(","):
            bad += {"kivi": check_kivi, "stream": check_stream, "infllm": check_infllm, "triton": check_triton}[part](a.longctx)
    print("FAILED" if bad else "all agree")
    sys.exit(1 if bad else 0)
