"""End-to-end float32 llama with the oracle attention, for comparing logits.

  kivi_e2e.py MODEL_DIR --method kivi --bits 2 --prompt ids.json --max-new 64 \
              [--force ids.json] -o out.npz [--dump qkv.h5]
  kivi_e2e.py MODEL_DIR --method streaming --n-init 4 --n-local 60 ...
  kivi_e2e.py MODEL_DIR --method streaming --ratio 0.25 [--model-max-len 7500] ...
  kivi_e2e.py MODEL_DIR --method infllm ... | --method full ...
  kivi_e2e.py --selftest

MODEL_DIR: a directory for LlamaForCausalLM.from_pretrained (config.json + safetensors); with
--gguf FILE the weights come from that GGUF inside MODEL_DIR, dequantised by transformers.
Only the weights and the rotary frequencies are taken from transformers.  The forward pass is
written out below, in float32 throughout (except for the fp16 of the KIVI quantiser).

prompt, force: JSON lists of token ids.  With --force the i-th generated token is the i-th
forced id, whatever the logits say.

out.npz:  logits  f32 [max_new, vocab]: row 0 predicts the first generated token and comes
                  from the last prompt token, row i comes from feeding generated token i-1
          tokens  i64 [max_new] tokens fed next (argmax or forced);  argmax i64 [max_new]
          prompt  i64, method str, n_init/n_local/... where they apply

KIVI: the prompt's attention is uncompressed float32; K after RoPE and V are rounded to fp16
when stored; each decode step attends over (quantised | fp16 window) in float32.
StreamingLLM and InfLLM: prompt[:-1] in chunks, the last prompt token alone, then steps.
--dump writes q, k, v before RoPE and the final KIVI state in the format of check_dump.py.
"""
import argparse
import json
import os
import sys

import numpy as np
import torch
from torch.nn.functional import linear, silu

import infllm_oracle
import kivi_oracle
import streaming_oracle


def rms_norm(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


class Llama:
    """Weights of a HF llama, float32, and the layer arithmetic outside attention."""

    def __init__(self, hf):
        c = hf.config
        sd = {k: v.detach().to(torch.float32) for k, v in hf.state_dict().items()}
        self.emb = sd["model.embed_tokens.weight"]
        self.norm = sd["model.norm.weight"]
        self.head = sd.get("lm_head.weight", self.emb)
        self.eps = c.rms_norm_eps
        self.H, self.Hk = c.num_attention_heads, c.num_key_value_heads
        self.d = getattr(c, "head_dim", None) or c.hidden_size // self.H
        pre = "model.layers.%d."
        self.layers = [{k[len(pre % i):]: v for k, v in sd.items() if k.startswith(pre % i)}
                       for i in range(c.num_hidden_layers)]
        rp = getattr(c, "rope_parameters", None) or {}
        old = getattr(c, "rope_scaling", None) or {}
        self.theta = float(rp.get("rope_theta") or getattr(c, "rope_theta", 10000.0))
        kind = rp.get("rope_type") or old.get("rope_type") or old.get("type") or "default"
        self.linear_factor = float(rp.get("factor") or old.get("factor")) if kind == "linear" else None
        rot = hf.model.rotary_emb
        self.inv_freq = rot.inv_freq.to(torch.float64)      # includes any scaling
        self.rope_gain = float(getattr(rot, "attention_scaling", 1.0))

    def rope(self, x, first):
        """x [n, heads, d] at absolute positions first..; half-split pairs."""
        n, _, d = x.shape
        ang = torch.outer(torch.arange(first, first + n, dtype=torch.float64), self.inv_freq)
        c = (ang.cos() * self.rope_gain).float()[:, None]
        s = (ang.sin() * self.rope_gain).float()[:, None]
        a, b = x[..., :d // 2], x[..., d // 2:]
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    def forward(self, ids, attention, last_only=True):
        """ids: list of tokens; attention(layer, q, k, v) -> [n, H, d] with raw q, k, v."""
        x = self.emb[torch.tensor(ids)]
        n = len(ids)
        for i, w in enumerate(self.layers):
            h = rms_norm(x, w["input_layernorm.weight"], self.eps)
            p = lambda s: linear(h, w[f"self_attn.{s}.weight"], w.get(f"self_attn.{s}.bias"))
            o = attention(i, p("q_proj").view(n, self.H, self.d), p("k_proj").view(n, self.Hk, self.d),
                          p("v_proj").view(n, self.Hk, self.d))
            x = x + linear(o.reshape(n, -1), w["self_attn.o_proj.weight"], w.get("self_attn.o_proj.bias"))
            h = rms_norm(x, w["post_attention_layernorm.weight"], self.eps)
            x = x + linear(silu(linear(h, w["mlp.gate_proj.weight"])) * linear(h, w["mlp.up_proj.weight"]),
                           w["mlp.down_proj.weight"])
        if last_only:
            x = x[-1:]
        return linear(rms_norm(x, self.norm, self.eps), self.head)


class FullAttention:
    """Uncompressed baseline, float32."""

    def __init__(self, m):
        self.m, self.k, self.v = m, [None] * len(m.layers), [None] * len(m.layers)

    def __call__(self, i, q, k, v):
        pos = 0 if self.k[i] is None else self.k[i].shape[0]
        q, k = self.m.rope(q, pos), self.m.rope(k, pos)
        if pos:
            k, v = torch.cat([self.k[i], k]), torch.cat([self.v[i], v])
        self.k[i], self.v[i] = k, v
        if pos == 0:
            return kivi_oracle.causal_attention(q, k, v)
        assert q.shape[0] == 1
        rep = self.m.H // self.m.Hk
        kk, vv = k.repeat_interleave(rep, 1), v.repeat_interleave(rep, 1)
        p = torch.softmax(torch.einsum("qhd,khd->hqk", q, kk) / self.m.d ** 0.5, -1)
        return torch.einsum("hqk,khd->qhd", p, vv)


class KiviAttention:
    def __init__(self, m, bits, group, residual, window=torch.float16):
        self.m = m
        self.layers = [kivi_oracle.KiviLayer(m.H, m.Hk, m.d, bits, group, residual, want_ref=False, window=window)
                       for _ in m.layers]

    def __call__(self, i, q, k, v):
        lay = self.layers[i]
        q, k = self.m.rope(q, lay.n), self.m.rope(k, lay.n)
        if lay.n == 0:
            lay.prompt(k, v)
            return kivi_oracle.causal_attention(q, k, v)
        return lay.step(q[0], k[0], v[0])["f32"][None]


class ChunkedAttention:
    """StreamingLLM or InfLLM: one oracle layer per model layer, raw q, k, v."""

    def __init__(self, m, make):
        self.layers = [make() for _ in m.layers]

    def __call__(self, i, q, k, v):
        return self.layers[i].forward(q, k, v)


class Recorder:
    """Wraps an attention and keeps the raw q, k, v of every layer for --dump."""

    def __init__(self, inner, n_layers):
        self.inner, self.rows = inner, [[[], [], []] for _ in range(n_layers)]

    def __call__(self, i, q, k, v):
        for lst, t in zip(self.rows[i], (q, k, v)):
            lst.append(t.clone())
        return self.inner(i, q, k, v)


def generate(m, attention, prompt, max_new, force=None, chunk=None):
    """chunk None: the prompt in one call; else prompt[:-1] in chunks, then the last token."""
    if chunk:
        for a in range(0, len(prompt) - 1, chunk):
            m.forward(prompt[a:min(a + chunk, len(prompt) - 1)], attention)
        logits = m.forward(prompt[-1:], attention)[-1]
    else:
        logits = m.forward(prompt, attention)[-1]
    rows, tokens = [], []
    for i in range(max_new):
        rows.append(logits)
        tokens.append(int(force[i]) if force is not None else int(logits.argmax()))
        if i + 1 < max_new:
            logits = m.forward(tokens[-1:], attention)[-1]
    return torch.stack(rows), tokens


def write_dump(path, m, rec, kivi, n_prompt):
    import h5py
    with h5py.File(path, "w") as h:
        g = h.create_group("qkv")
        g.attrs.update(n_prompt=n_prompt, rope_theta=m.theta, head_dim=m.d, n_head=m.H, n_kv_head=m.Hk,
                       rope_style="half", rope_linear_factor=m.linear_factor or 1.0)
        for i, rows in enumerate(rec.rows):
            for name, lst in zip("qkv", rows):
                g[f"layer_{i:02d}/{name}"] = torch.cat(lst).numpy()
        g = h.create_group("kv")
        l0 = kivi.layers[0]
        g.attrs.update(bits=l0.bits, group=l0.group, residual=l0.residual)
        for i, l in enumerate(kivi.layers):
            s = g.create_group(f"layer_{i:02d}")
            for x in ("k_codes", "k_scale", "k_min", "k_win", "v_codes", "v_scale", "v_min", "v_win"):
                s[x] = getattr(l, x).numpy()
            s["windows"] = np.array([[l.nkq, l.n], [l.nvq, l.n]], np.int64)


def make_attention(m, a, prompt_len):
    info = {"method": a.method}
    if a.method == "full":
        return FullAttention(m), None, info
    if a.method == "kivi":
        info |= dict(bits=a.bits, group=a.group, residual=a.residual)
        return KiviAttention(m, a.bits, a.group, a.residual, torch.float32 if a.window == "f32" else torch.float16), None, info
    if m.rope_gain != 1.0:
        sys.exit("this rope scaling is not what StreamingLLM / InfLLM know")
    kw = dict(base=m.theta, linear_factor=m.linear_factor)
    if a.method == "streaming":
        if a.ratio:
            a.n_init, a.n_local = streaming_oracle.budget(a.ratio, prompt_len, a.model_max_len)
        info |= dict(n_init=a.n_init, n_local=a.n_local, chunk=a.chunk)
        make = lambda: streaming_oracle.StreamingLayer(m.H, m.Hk, m.d, a.n_init, a.n_local, **kw)
    else:
        if a.ratio:
            a.n_init, a.n_local, a.topk, _ = streaming_oracle.budget_infllm(
                a.ratio, prompt_len, a.model_max_len, block_size=a.block, exc_block_size=a.exc)
        info |= dict(n_init=a.n_init, n_local=a.n_local, topk=a.topk, block=a.block, exc=a.exc, repr_topk=a.repr_topk,
                     chunk=a.chunk)
        make = lambda: infllm_oracle.InfLLMLayer(m.H, m.Hk, m.d, a.n_init, a.n_local, a.topk, a.block, a.exc,
                                                 a.repr_topk, **kw)
    return ChunkedAttention(m, make), a.chunk, info


def selftest():
    """Tiny random llama: our forward against HF's, degenerate compressors against full attention."""
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    worst = 0.0
    for heads, kv in ((6, 2), (4, 4)):
        hf = LlamaForCausalLM(LlamaConfig(vocab_size=101, hidden_size=heads * 32, intermediate_size=96, num_hidden_layers=2,
                                          num_attention_heads=heads, num_key_value_heads=kv)).eval()
        for p in hf.parameters():
            p.data *= 3 if p.dim() > 1 else 1
        m = Llama(hf)
        ids = torch.randint(0, 101, (150,)).tolist()
        logits, toks = generate(m, FullAttention(m), ids, 20)
        want = hf(torch.tensor([ids + toks])).logits[0, len(ids) - 1:-1]
        e = [(logits - want).abs().max().item()]
        mk = lambda: streaming_oracle.StreamingLayer(m.H, m.Hk, m.d, 4, 500, base=m.theta)
        e.append((generate(m, ChunkedAttention(m, mk), ids, 20, toks, 64)[0] - logits).abs().max().item())
        mk = lambda: infllm_oracle.InfLLMLayer(m.H, m.Hk, m.d, 4, 500, 2, 16, 64, 4, base=m.theta)
        e.append((generate(m, ChunkedAttention(m, mk), ids, 20, toks, 64)[0] - logits).abs().max().item())
        k = [(generate(m, KiviAttention(m, b, 32, 128), ids, 20, toks)[0] - logits).abs().max().item() for b in (4, 2)]
        print(f"H={heads} Hk={kv}: full - HF {e[0]:.1e}; streaming and infllm with room for all, - full: {e[1]:.1e} {e[2]:.1e}; "
              f"kivi 4 bit, 2 bit - full: {k[0]:.1e} {k[1]:.1e}; logits spread {logits.std():.2f}")
        worst = max(worst, *e)
    return worst < 2e-4


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    ap.add_argument("model_dir", nargs="?")
    ap.add_argument("--gguf", help="file name inside MODEL_DIR")
    ap.add_argument("--method", choices=("full", "kivi", "streaming", "infllm"), default="kivi")
    ap.add_argument("--prompt")
    ap.add_argument("--max-new", type=int, default=64)
    ap.add_argument("--force")
    ap.add_argument("-o")
    ap.add_argument("--dump")
    ap.add_argument("--bits", type=int, default=2)
    ap.add_argument("--group", type=int, default=32)
    ap.add_argument("--residual", type=int, default=128)
    ap.add_argument("--window", choices=("f16", "f32"), default="f16", help="dtype of the windows that are not quantised")
    ap.add_argument("--n-init", type=int, default=4)
    ap.add_argument("--n-local", type=int, default=60)
    ap.add_argument("--chunk", type=int, default=8192)
    ap.add_argument("--ratio", type=float, help="compression ratio; sets the sizes by the benchmark's rule")
    ap.add_argument("--model-max-len", type=int, default=2147483647)
    ap.add_argument("--topk", type=int, default=16)
    ap.add_argument("--block", type=int, default=128)
    ap.add_argument("--exc", type=int, default=512)
    ap.add_argument("--repr-topk", type=int, default=4)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--selftest", action="store_true")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    with torch.no_grad():
        if a.selftest:
            sys.exit(0 if selftest() else 1)
        if not (a.model_dir and a.prompt and a.o):
            ap.error("MODEL_DIR, --prompt and -o are needed")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import LlamaForCausalLM
        kw = {"gguf_file": a.gguf} if a.gguf else {}
        m = Llama(LlamaForCausalLM.from_pretrained(a.model_dir, dtype=torch.float32, **kw))
        prompt = [int(x) for x in json.load(open(a.prompt))]
        force = [int(x) for x in json.load(open(a.force))] if a.force else None
        if force is not None:
            a.max_new = min(a.max_new, len(force))
        att, chunk, info = make_attention(m, a, len(prompt))
        rec = Recorder(att, len(m.layers)) if a.dump else att
        logits, tokens = generate(m, rec, prompt, a.max_new, force, chunk)
        np.savez(a.o, logits=logits.numpy(), tokens=np.array(tokens), argmax=logits.argmax(-1).numpy(),
                 prompt=np.array(prompt), **{k: np.array(v) for k, v in info.items()})
        if a.dump:
            if a.method != "kivi":
                sys.exit("--dump goes with --method kivi")
            write_dump(a.dump, m, rec, att, len(prompt))
        print(info, "logits", tuple(logits.shape), "tokens", tokens[:16])


if __name__ == "__main__":
    main()
