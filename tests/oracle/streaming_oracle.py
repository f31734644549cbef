"""StreamingLLM of one attention layer, transcribed from the public source.

Read from henryzhongsc/longctx_bench @ 72204d09
  pipeline/inf_stream_llm/inf_llm/attention/{stream_llm,rope}.py,
  .../dot_production_attention/{torch_impl,triton_impl}.py,
  .../utils/greedy_search.py, pipeline/inf_stream_llm/infllm_utils.py (budget)
and compared with thunlp/InfLLM @ 12b70798 (the only difference in these files is the
benchmark's linear RoPE factor and the rope_theta_factor).

Control flow, per forward call on a chunk of len_q rows
-------------------------------------------------------
 1. raw (un-rotated) K,V of the cache are put before the chunk's raw K,V.
    len_k = TOTAL number of tokens so far including the chunk (not the cache's size).
 2. the next cache: everything if len_k <= n_local + n_init, otherwise the first n_init
    rows and the last n_local rows of what is held now.
 3. local part: the last len_q + n_local held rows (all, if fewer).  RoPE positions count
    from 0 at the first of these; queries get the last len_q positions.  A key is visible
    if 0 <= distance < n_local, so a query sees itself and n_local - 1 earlier rows.
 4. init part, only if len_k > n_local: the first n_init held rows, RoPE at positions
    0..n_init-1; ALL queries rotated to the one position n_local + n_init - 1.
    Key j is visible if (true position of the query) - j >= n_local, i.e. exactly when the
    local part does not see it.
 5. ONE softmax over both parts, logits scaled by 1/sqrt(d).

Consequences worth a test (they follow from the flow above, they are not used by it):
  - the result does not depend on the chunk size, up to float rounding;
  - the cache holds n_local rows, but a decode step reads only n_local - 1 of them (plus
    its own row): the oldest of the n_local is outside the window;
  - "position in cache": for an init key j the relative distance is
    n_local + n_init - 1 - j, also while no row has been evicted yet.  So at the moment a
    key leaves the local window its distance jumps from n_local - 1 to n_local+n_init-1-j;
  - prompts no longer than n_local get ordinary full attention.

Where the source leaves room
----------------------------
 S1 fattn=true in every config: on GPU the triton kernel runs (float32 softmax state,
    exp2, P rounded to fp16 before P.V); the torch class is the fallback (fp16 logits and
    softmax).  They compute the same formula; here everything is float32, as asked.
 S2 the torch class multiplies the logits by 1/sqrt(d) AFTER masking with -inf: same.
 S3 cos/sin tables are float32: angle = float32(position * distance_scale) *
    float32 inv_freq with inv_freq = 1/base^(2i/d) in float32, divided by the linear
    factor if there is one.  Angles taken in double differ by about position * 1e-7 rad.
 S4 rotate_half layout: channel i is paired with channel i + d/2.
 S5 the table is only ever extended, so values do not depend on call order.
 S6 greedy search feeds the prompt's first T-1 tokens in chunks, then the last prompt
    token ALONE, then one token per step.  No effect on the result (see above).
 S7 local_ratio of the configs is never read: n_local is what n_init leaves.
 S8 n_init = 0: the init part is present but empty.
 S9 n_init > n_local (never in the benchmark's configs): a call that ends with
    n_local < len_k < n_init crashes upstream (the table slice has n_init rows, the keys
    fewer).  Here the init part is then simply all held rows.
"""
import math

import torch

F32 = torch.float32


def budget(compression_ratio, prompt_len, model_max_len, init_ratio=0.021):
    """(n_init, n_local) as infllm_utils.compress computes them for stream-llm.

    All products are double precision and truncated towards zero.  configs: ratio 0.5,
    0.25, 0.17, 0.125; init_ratio 0.021 always; model_max_len 7500 (llama3), 31500
    (longchat, mistral) or 2147483647 ('infinity').
    """
    total = int(compression_ratio * min(prompt_len, model_max_len))
    n_init = max(int(total * init_ratio), 0)
    n_local = max(1, int(total - n_init))
    return n_init, n_local


def budget_infllm(compression_ratio, prompt_len, model_max_len, init_ratio=0.021,
                  context_ratio=0.324, block_size=128, exc_block_size=512):
    """(n_init, n_local, topk, max_cached_block) of the same function for inf-llm."""
    total = int(compression_ratio * min(prompt_len, model_max_len))
    n_init = max(int(total * init_ratio), 0)
    topk = max(0, int(total * context_ratio) // block_size)
    n_local = max(exc_block_size, int(total - n_init - topk * block_size))
    return n_init, n_local, topk, topk


class Rope:
    """Table of rotations by position; grows on demand."""

    def __init__(self, dim, base=10000.0, linear_factor=None, distance_scale=1.0):
        self.inv = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=F32) / dim))
        if linear_factor:
            self.inv = self.inv / linear_factor
        self.distance_scale = distance_scale
        self.cos = self.sin = None
        self.len = -1

    def grow(self, n):
        if n > self.len:
            ang = torch.outer(torch.arange(n).to(F32) * self.distance_scale, self.inv)
            ang = torch.cat([ang, ang], -1)
            self.cos, self.sin, self.len = ang.cos(), ang.sin(), n

    def rotate(self, x, first, n):
        """x [..., n, d] at positions first .. first+n-1 (n = 1 broadcasts one position)."""
        self.grow(first + n)
        c, s = self.cos[first:first + n], self.sin[first:first + n]
        a, b = x.chunk(2, -1)
        return x * c + torch.cat([-b, a], -1) * s


def two_part_attention(parts, d):
    """parts: list of (q [H,a,d], k [H,b,d], v [H,b,d], visible [a,b]); one joint softmax.

    Returns out [H,a,d] and the list of probabilities per part.
    """
    lg = [torch.matmul(q, k.transpose(1, 2)).masked_fill(~m, float("-inf")) * (1 / math.sqrt(d))
          for q, k, v, m in parts]
    p = torch.softmax(torch.cat(lg, -1), -1)
    ps = p.split([x.shape[-1] for x in lg], -1)
    ps = [x.masked_fill(~m, 0.0) for x, (_, _, _, m) in zip(ps, parts)]
    return sum(torch.matmul(x, v) for x, (_, _, v, _) in zip(ps, parts)), ps


def spread(x, H):
    """[Hk, n, d] -> [H, n, d], head h reads kv head h // (H/Hk)."""
    return x if x.shape[0] == H else x.repeat_interleave(H // x.shape[0], 0)


class StreamingLayer:
    def __init__(self, n_head, n_kv_head, head_dim, n_init, n_local, base=10000.0,
                 linear_factor=None, distance_scale=1.0):
        self.H, self.Hk, self.d = n_head, n_kv_head, head_dim
        self.n_init, self.n_local = n_init, n_local
        self.rope = Rope(head_dim, base, linear_factor, distance_scale)
        self.cache = None            # (k raw [Hk,m,d], v raw [Hk,m,d], total length)
        self.held = []               # absolute token numbers of the cached rows
        self.last_seen = None        # token numbers the newest query could see

    def forward(self, q, k, v):
        """q [n,H,d], k, v [n,Hk,d] raw float32 -> [n,H,d].  Prompt chunk or one step."""
        n_init, n_local, rope = self.n_init, self.n_local, self.rope
        q, k, v = (t.to(F32).transpose(0, 1) for t in (q, k, v))
        len_q = len_k = q.shape[1]
        if self.cache is not None:
            k = torch.cat([self.cache[0], k], 1)
            v = torch.cat([self.cache[1], v], 1)
            len_k += self.cache[2]
        m = k.shape[1]
        ids = self.held + list(range(len_k - len_q, len_k))

        if len_k <= n_local + n_init:
            kc, vc, self.held = k, v, ids
        else:
            lo = max(0, m - n_local)
            kc = torch.cat([k[:, :n_init], k[:, lo:]], 1)
            vc = torch.cat([v[:, :n_init], v[:, lo:]], 1)
            self.held = ids[:n_init] + ids[lo:]
        self.cache = (kc, vc, len_k)

        # local part
        kl, vl, il = k, v, ids
        if len_q + n_local < m:
            cut = m - len_q - n_local
            kl, vl, il = k[:, cut:], v[:, cut:], ids[cut:]
        nl = kl.shape[1]
        ql = rope.rotate(q, nl - len_q, len_q)
        kl = rope.rotate(kl, 0, nl)
        dist = torch.arange(len_q)[:, None] - torch.arange(nl)[None, :] + (nl - len_q)
        see_l = (dist < n_local) & (dist >= 0)

        # init part
        if len_k > n_local:
            qi = rope.rotate(q, n_local + n_init - 1, 1)
            ki, vi = k[:, :n_init], v[:, :n_init]
            ki = rope.rotate(ki, 0, ki.shape[1])
        else:
            qi, ki, vi = q, k[:, :0], v[:, :0]
        dist = torch.arange(len_q)[:, None] - torch.arange(ki.shape[1])[None, :] + (len_k - len_q)
        see_i = dist >= n_local

        self.last_seen = ([ids[j] for j in range(ki.shape[1]) if see_i[-1, j]],
                          [il[j] for j in range(nl) if see_l[-1, j]])
        out, _ = two_part_attention(
            [(ql, spread(kl, self.H), spread(vl, self.H), see_l),
             (qi, spread(ki, self.H), spread(vi, self.H), see_i)], self.d)
        return out.transpose(0, 1).contiguous()


def run(q, k, v, n_prompt, n_init, n_local, chunk=64, base=10000.0, linear_factor=None,
        on_state=None):
    """All rows: prompt as greedy search feeds it (S6), then one row per step -> [T,H,d]."""
    layer = StreamingLayer(q.shape[1], k.shape[1], q.shape[2], n_init, n_local, base,
                           linear_factor)
    outs = []
    cuts = list(range(0, n_prompt - 1, chunk)) + list(range(n_prompt - 1, q.shape[0])) + [q.shape[0]]
    for st, ed in zip(cuts, cuts[1:]):
        outs.append(layer.forward(q[st:ed], k[st:ed], v[st:ed]))
        if on_state:
            on_state(ed, layer)
    return torch.cat(outs)


if __name__ == "__main__":
    for L in (1, 48, 100, 1000, 7500, 9000):
        print(L, budget(0.25, L, 7500), budget_infllm(0.25, L, 7500))
