"""H2O of one attention layer, transcribed from the public sources.

Two different methods carry this name:

  H2OBench   the benchmark's: henryzhongsc/longctx_bench @ 72204d09
             pipeline/h2o/utils_hh/modify_{llama,mistral}.py, pipeline/h2o/inference.py
  H2OTrue    the authors' with keys really dropped: FMInference/H2O @ ac75c2a
             h2o_hf/utils_real_drop/modify_llama.py (H2OLlamaAttention, H2OKVCache_LayerWise)

H2OBench: what the source does
------------------------------
B1  The prompt runs through flash attention on the uncompressed K, V.  It leaves NO scores, so
    the heavy hitters know nothing of the prompt's attention matrix.
B2  A module-global switch `phase_toggle` (1 at the start of a sample) tells prompt and decode
    apart.  Every layer's forward computes, with n = len(past_key_value) = layers present in the
    cache object, N = number of layers:
        prefill = (n <= N and phase_toggle);   if prefill and n == N: phase_toggle = 0
    llama asks AFTER its own cache update, so n = layer index + 1 during the prompt and the last
    layer clears the switch: every layer scores from decode step 1 on.
    mistral asks BEFORE its update: n = layer index < N during the whole prompt, the switch is
    still 1 at decode step 1, where n = N: LAYER 0 takes the flash branch once more (exact
    attention over everything, no scores) and clears the switch; layers 1..N-1 score.
    Hence lag = 1 for mistral's layer 0, lag = 0 for all other layers of both models.
    With lag the first scored step is decode step 2, whose row has L + 2 keys.
B3  At the layer's first scored step, with S keys (the new token included, S = L + 1 + lag):
        H = int(heavy_ratio * S),  R = int(recent_ratio * S)     (Python floats, truncation)
    They stay fixed for the rest of the generation.
B4  Step with S keys, per QUERY head (kv heads are repeated first), everything an fp16 tensor:
        w = fp16(fp16(q.k) / sqrt(d))
        if there is a mask m from the step before:  w = fp16(fp16(w*m) + fp16((1-m) * -65504))
            i.e. w where m = 1 and -65504 where m = 0
        p = fp16(softmax_float32(w))
        s = p;  from the second scored step on  s[:-1] = fp16(p[:-1] + previous)
        new mask m' over S + 1 keys (those of the NEXT step), all ones.  If S > H + R:
            R > 0:  m'[: S+1-R] = 0, candidates = s[: S-R]
            R = 0:  m' = 0 (key S too),  candidates = s[: S]
            H > 0:  m'[top-H of the candidates] = 1
        m'[S-R : S] = 1                  (see B5; for R = 0 this is m'[0 : S] = 1)
        previous = s * m'[:S]
        out = fp16(p.V)                  with the OLD mask, i.e. selection comes after attending
    The line that clamps w at -65504 sits inside `if attention_mask is not None` and is never run
    (attention_mask is None without padding): an overflow to -inf stays, and would give NaN in w*m.
B5  Aliasing.  attention_masks_next is a VIEW of attn_mask, and so is score_mask = attn_mask[:, :-1],
    into which `score_mask[:, -R:] = 1` is written afterwards.  So the write also reaches the mask
    of the next step.  Effects:
      * next step keeps keys S-R .. S, that is R + 1 with the new one, plus H heavy ones among
        0 .. S-R-1: H + R + 1 keys in all (the original repository has .clone() there: H + R,
        and key S-R is then never attended to although its score survives).
      * R = 0 (ratio * S < 1, prompts of less than 1/ratio tokens): `[:, -0:]` is everything, so
        all OLD keys 0 .. S-1 are kept, while `m'[:] = 0` before has also cleared the NEW key S,
        and the view does not reach it: from the second scored step on a token attends to
        everything except itself.  It is visible to later steps, with its score of 0.
        (In the original repository, with its clone, R = 0 leaves only the H heavy ones.)
B6  Nothing is dropped: K and V stay, a masked key has p = 0 exactly and its score is set to 0.
    The fp16 softmax underflows to 0 below 2^-25, so early steps can have fewer than H candidates
    with a score > 0; top-H then fills up with zeros.  A masked key can thus come BACK, but not with
    ties to the lowest index: the fill is then always the lowest zeros, and it only shrinks.
B7  Ties (mostly at 0) are broken by torch.topk, unspecified.  CUDA's radix select writes the values
    above the k-th one, then those equal to it in ascending index order until k are there: LOWEST
    index, which is chosen here.  CPU torch does otherwise (masks then differ at most steps when
    attention is peaked).
B8  division by sqrt(d): CUDA multiplies by the float32 reciprocal; same fp16 for d = 32..128, see
    A11 in kivi_oracle.py.
B9  int(ratio * S) is floating point: 0.29 * 100 = 28.999999999999996 -> 28.

H2OTrue: what the source does
-----------------------------
T1  Budgets are absolute numbers from the config, not ratios: hh_size and recent_size
    (defaults: class 4 / 512, run_summarization.py 1024 / 1024, run_streaming.py 4 / 2000), one pair
    for all layers and heads; cache_size = hh_size + recent_size.  They do not depend on the prompt.
T2  Prompt: plain causal attention, p = fp16(softmax_float32(fp16 logits + mask)), output from ALL
    keys.  score[j] = fp16(sum over the L rows of p[i, j]) (one sum in float32, one rounding).
    Then, still in the same forward, if L > cache_size the cache is cut to cache_size.
T3  Decode step: the new k, v are appended FIRST (n = held + 1 keys), p over these n keys, then
    score[:-1] = fp16(p[:-1] + old score), score[-1] = p[-1]; then if n > cache_size the cut:
        candidates 0 .. n - recent_size - 1 (cache order = ascending positions), top hh_size of them
        by score, plus the last recent_size entries; everything else is removed from K, V and score.
    The new token COUNTS as one of the recent_size.  Eviction comes AFTER attending (the output
    uses all n keys; it is computed after the call, from the uncut values).  So a step attends to
    at most cache_size + 1 keys and holds at most cache_size afterwards; one key goes per step.
    The oldest recent key joins the candidates with the score it has earned.
T4  Keys are cached rotated at their true positions and never re-rotated; the query's position is
    the true one (position_ids from the attention mask's cumulated sum, growing by 1 per step).
    The _streaming class instead re-rotates by cache slot; not transcribed.
T5  Scores are per kv head = per query head: with H != Hk the source fails (boolean mask of H rows
    on Hk rows), and batch must be 1, heads > 1 (squeeze).  EXTENSION here for GQA: the
    score of a kv head is the mean over its query heads:
        prompt  score = fp16(mean_h sum_i p[h, i, j]),  step  inc = fp16(mean_h p[h, j]),
        score = fp16(score + inc), with sums and means exact before their single rounding.
    For one query head per kv head this is the source.
T6  topk ties unspecified; LOWEST index here.
T7  hh_size > n - recent_size cannot happen at a cut, since n > hh_size + recent_size.

Precision.  arith="f16" is the source (matrix products summed exactly, rounded once, see A10 of
kivi_oracle.py).  arith="f32": logits, softmax and output in float32 from k, v as given; only the
scores are fp16: p is rounded to fp16 where it enters the score.  H2OTrue score="f32" leaves that
out too (float32 scores, no rounding).
"""
import math

import torch

F16, F32, F64 = torch.float16, torch.float32, torch.float64
MIN16 = -65504.0


def budget(ratio, n):
    """The benchmark's int(ratio * keys of the first scored row)."""
    return int(ratio * n)


def top_lowest(x, k):
    """Indices of the k largest along the last axis, ties to the lowest index (unsorted by value)."""
    return torch.sort(x, dim=-1, descending=True, stable=True).indices[..., :k]


def margin(cand, k):
    """How far the selection is from changing: min over heads of score[k-th] - score[k+1-th] (0: tie)."""
    if k == 0 or cand.shape[-1] <= k:
        return float("inf")
    x = cand.to(F32).sort(-1, descending=True).values
    return (x[:, k - 1] - x[:, k]).min().item()


def dot16(a, b):
    return torch.matmul(a.to(F64), b.to(F64)).to(F16)


def scale16(w, d):
    """fp16 tensor / sqrt(d) as a scalar division (B8)."""
    return (w.to(F32) / math.sqrt(d)).to(F16)


def rep_heads(x, rep):
    """[n, Hk, d] -> [H, n, d], query head h reads kv head h // rep."""
    return x.transpose(0, 1).repeat_interleave(rep, 0)


def attention(q, k, v, causal, arith, keep=None):
    """q [m, H, d], k, v [n, Hk, d] -> p [H, m, n], out [m, H, d]; keep [H, n] bool."""
    rep, d = q.shape[1] // k.shape[1], q.shape[2]
    t = F16 if arith == "f16" else F32
    qq, kk, vv = q.to(t).transpose(0, 1), rep_heads(k.to(t), rep), rep_heads(v.to(t), rep)
    if arith == "f16":
        w = scale16(dot16(qq, kk.transpose(1, 2)), d)
        if keep is not None:
            w = torch.where(keep[:, None], w, torch.tensor(MIN16, dtype=F16))
        if causal:
            m = torch.full((q.shape[0], q.shape[0]), MIN16, dtype=F16).triu(1)
            w = w + m
        p = torch.softmax(w.to(F32), -1).to(F16)
        return p, dot16(p, vv).transpose(0, 1)
    w = torch.matmul(qq, kk.transpose(1, 2)) / math.sqrt(d)
    if keep is not None:
        w = w.masked_fill(~keep[:, None], float("-inf"))
    if causal:
        w = w.masked_fill(torch.ones(w.shape[1:], dtype=torch.bool).triu(1), float("-inf"))
    p = torch.softmax(w, -1)
    return p, torch.matmul(p, vv).transpose(0, 1)


class H2OBench:
    """One layer of the benchmark's H2O.  prompt(k, v) once, then step(q, k, v) per token.

    All rows are ALREADY rotated: q [H, d], k, v [Hk, d] (prompt: [L, Hk, d]).
    lag: 1 for layer 0 of the mistral variant, else 0 (B2).

    step returns a dict
      keep   bool [H, S]   keys this step attended to (from the step before; all ones at first)
      out    [H, d]        fp16 or float32 by arith
      p      [H, S]        its probabilities
      scores fp16 [H, S]   accumulated scores incl. this step, before masked ones are zeroed;
                           None while the layer lags
    Afterwards: self.previous fp16 [H, S] (zeroed), self.mask bool [H, S+1] for the next step,
    self.heavy, self.recent (None before the first scored step).
    """

    def __init__(self, n_head, n_kv_head, head_dim, heavy_ratio, recent_ratio, lag=0, arith="f16",
                 alias=True):
        self.H, self.Hk, self.d, self.lag, self.arith, self.alias = n_head, n_kv_head, head_dim, lag, arith, alias
        self.heavy_ratio, self.recent_ratio = heavy_ratio, recent_ratio
        self.t = F16 if arith == "f16" else F32
        self.k = self.v = torch.empty(0, n_kv_head, head_dim, dtype=self.t)
        self.heavy = self.recent = self.previous = self.mask = None
        self.margin = float("inf")              # of the last selection
        self.steps = 0

    @property
    def n(self):
        return self.k.shape[0]

    def prompt(self, k, v, q=None):
        """With q [L, H, d]: returns the prompt's exact attention (float32 inside)."""
        assert self.n == 0
        self.k, self.v = k.to(self.t), v.to(self.t)
        if q is not None:
            return attention(q.to(self.t), self.k, self.v, True, "f32")[1].to(self.t)

    def step(self, q, k, v):
        self.k = torch.cat([self.k, k.to(self.t)[None]])
        self.v = torch.cat([self.v, v.to(self.t)[None]])
        S = self.n
        self.steps += 1
        if self.steps <= self.lag:                           # B2: flash attention, no scores
            p, o = attention(q.to(self.t)[None], self.k, self.v, False, "f32")
            return {"keep": torch.ones(self.H, S, dtype=torch.bool), "out": o[0].to(self.t), "p": p[:, 0],
                    "scores": None}
        p, o = attention(q[None], self.k, self.v, False, self.arith, self.mask)
        p, o = p[:, 0], o[0]
        keep = torch.ones(self.H, S, dtype=torch.bool) if self.mask is None else self.mask
        s = p.to(F16)
        if self.previous is None:
            self.heavy, self.recent = budget(self.heavy_ratio, S), budget(self.recent_ratio, S)
        else:
            s = torch.cat([s[:, :-1] + self.previous, s[:, -1:]], 1)       # fp16 addition
        Hb, R = self.heavy, self.recent
        m = torch.ones(self.H, S + 1, dtype=torch.bool)
        if S > Hb + R:
            m[:, :S + 1 - R if R else S + 1] = False
            cand = s[:, :S - R] if R else s
            self.margin = margin(cand, Hb) if R else float("inf")      # B5: R = 0 selects nothing
            if Hb:
                m = m.scatter(1, top_lowest(cand, Hb), True)
        score_mask = m[:, :S] if self.alias else m[:, :S].clone()           # B5
        score_mask[:, (S - R if R else 0):] = True
        self.previous = s * score_mask.to(F16)
        self.mask = m
        return {"keep": keep, "out": o, "p": p, "scores": s}


class H2OTrue:
    """One layer of the original H2O with real dropping; same call interface (T1..T7).

    prompt(k, v, q) needs q [L, H, d] and returns the attention output [L, H, d].
    step returns keep bool [Hk, S] over ALL true positions (S = tokens seen incl. the new one):
    the keys this step attended to; scores [Hk, S], 0 where not held, accumulated incl. this step
    and before the cut; p [H, S] with zeros; out [H, d].
    Afterwards: self.pos int64 [Hk, n] held true positions (ascending), self.score [Hk, n].
    """

    def __init__(self, n_head, n_kv_head, head_dim, hh_size, recent_size, arith="f16", score="f16"):
        self.H, self.Hk, self.d, self.arith = n_head, n_kv_head, head_dim, arith
        self.heavy, self.recent = hh_size, recent_size
        self.t = F16 if arith == "f16" else F32
        self.st = F16 if score == "f16" else F32
        self.pos = None
        self.margin = float("inf")
        self.seen = 0

    def _mean(self, p):
        """p [H, m, n] -> sum over rows, mean over a kv head's query heads, one rounding."""
        x = p.to(self.st).to(F64).sum(1)
        return x.view(self.Hk, self.H // self.Hk, -1).mean(1).to(self.st)

    def _cut(self):
        n = self.pos.shape[1]
        if n <= self.heavy + self.recent:
            return
        self.margin = margin(self.score[:, :n - self.recent], self.heavy)
        top = top_lowest(self.score[:, :n - self.recent], self.heavy).sort(-1).values
        idx = torch.cat([top, torch.arange(n - self.recent, n).expand(self.Hk, -1)], 1)
        self.pos, self.score = self.pos.gather(1, idx), self.score.gather(1, idx)
        g = idx[..., None].expand(-1, -1, self.d)
        self.k, self.v = self.k.gather(1, g), self.v.gather(1, g)

    def prompt(self, k, v, q):
        assert self.seen == 0
        L = k.shape[0]
        k, v = k.to(self.t), v.to(self.t)
        p, o = attention(q, k, v, True, self.arith)
        self.k, self.v = k.transpose(0, 1).contiguous(), v.transpose(0, 1).contiguous()   # [Hk, n, d]
        self.pos = torch.arange(L).expand(self.Hk, -1).contiguous()
        self.score = self._mean(p)
        self.prompt_score = self.score
        self.seen = L
        self._cut()
        return o

    def step(self, q, k, v):
        app = lambda x, r: torch.cat([x, r.to(self.t)[:, None]], 1)
        self.k, self.v = app(self.k, k), app(self.v, v)
        self.pos = torch.cat([self.pos, torch.full((self.Hk, 1), self.seen)], 1)
        self.seen += 1
        p, o = attention(q[None], self.k.transpose(0, 1), self.v.transpose(0, 1), False, self.arith)
        inc = self._mean(p)
        self.score = torch.cat([inc[:, :-1] + self.score, inc[:, -1:]], 1)   # rounds to self.st
        S = self.seen
        keep = torch.zeros(self.Hk, S, dtype=torch.bool).scatter(1, self.pos, True)
        scores = torch.zeros(self.Hk, S, dtype=self.st).scatter(1, self.pos, self.score)
        full_p = torch.zeros(self.H, S, dtype=p.dtype).scatter(
            1, self.pos.repeat_interleave(self.H // self.Hk, 0), p[:, 0])
        self._cut()
        return {"keep": keep, "out": o[0], "p": full_p, "scores": scores}


def run(make, q, k, v, n_prompt):
    """make() -> layer; rotated rows q [T,H,d], k, v [T,Hk,d].  -> layer, list of the steps' dicts."""
    layer = make()
    layer.prompt(k[:n_prompt], v[:n_prompt], q[:n_prompt])
    return layer, [layer.step(q[t], k[t], v[t]) for t in range(n_prompt, q.shape[0])]


def selftest():
    """Counts and limits that follow from the docstring."""
    g = torch.Generator().manual_seed(1)
    for H, Hk in ((4, 2), (3, 3)):
        T, L, d = 90, 50, 32
        q, k, v = (torch.randn(T, h, d, generator=g).to(F16) for h in (H, Hk, Hk))
        for hr, rr in ((.25, .25), (.125, .125), (.083, .083), (.0625, .0625), (.1, 0.), (0., .1)):
            for lag in (0, 1):
                lay, st = run(lambda: H2OBench(H, Hk, d, hr, rr, lag), q, k, v, L)
                assert lay.heavy == int(hr * (L + 1 + lag)) and lay.recent == int(rr * (L + 1 + lag))
                want = lay.heavy + lay.recent + 1
                for i, s in enumerate(st[lag + 1:], lag + 1):
                    n = s["keep"].sum(1)
                    assert (n == (want if rr else L + i)).all(), (n, want)
        for hh, rec in ((10, 10), (0, 5), (5, 0), (100, 100)):
            lay, st = run(lambda: H2OTrue(H, Hk, d, hh, rec), q, k, v, L)
            for i, s in enumerate(st):
                assert (s["keep"].sum(1) == min(L + i + 1, hh + rec + 1)).all()
        full = run(lambda: H2OTrue(H, Hk, d, 100, 100, "f32"), q, k, v, L)[1]
        ben = run(lambda: H2OBench(H, Hk, d, 1., 1., 0, "f32"), q, k, v, L)[1]
        assert max((a["out"] - b["out"]).abs().max() for a, b in zip(full, ben)) < 1e-6
    # T5: equal query heads in a group = one query head per kv head
    q, k, v = (torch.randn(90, 2, 32, generator=g).to(F16) for _ in range(3))
    a, b = (run(lambda: H2OTrue(h, 2, 32, 8, 8), x, k, v, 50)[1] for h, x in ((2, q), (6, q.repeat_interleave(3, 1))))
    assert all(torch.equal(x["keep"], y["keep"]) and torch.equal(x["scores"], y["scores"]) for x, y in zip(a, b))
    print("h2o selftest ok")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        selftest()
