"""InfLLM of one attention layer, transcribed from the public source.

Read from henryzhongsc/longctx_bench @ 72204d09
  pipeline/inf_stream_llm/inf_llm/attention/{context_manager,inf_llm,rope}.py and
  dot_production_attention/{torch_impl,triton_impl}.py
(thunlp/InfLLM @ 12b70798 differs in white space only, and in the linear RoPE factor).
Benchmark settings: cache_strategy 'lru', no chunk_topk_calc, perhead off, faiss off,
block_size 128, exc_block_size 512, repr_topk 4, max_cached_block = topk.  The GPU block
cache (lru) decides only what stays on the GPU, not the result; it is left out.

Per forward call (a prompt chunk or one step), rows are cut in execution blocks of
exc_block_size.  For each execution block of m rows:
 1. local part: held keys from max(held_before - n_local, 0) on, plus the block; RoPE
    positions from 0; visible if 0 <= distance < n_local.
 2. chosen blocks: all, if there are at most topk; otherwise the topk largest inner
    products of  mean over the block's rows of (query rotated to the one position
    n_local - 1)  with the block representative (per QUERY head; heads are summed).
    One choice for the whole execution block and for all heads.
 3. global part: chosen blocks' raw keys, the init keys (raw), and the first
    max(remainder + m - n_local, 0) remainder keys (raw); queries at position n_local - 1,
    keys un-rotated, i.e. all at position 0.
 4. one softmax over both parts.
 5. the local probabilities, summed over the block's rows, are added to the per-query-head
    scores of the remainder rows.
 6. remainder rows beyond n_local become init rows (until there are n_init), then whole
    blocks of block_size: representative = mean over the repr_topk keys of the block with
    the largest score, for each query head separately (so under GQA the heads of a group
    have different representatives).

Where the source leaves room, or surprises
------------------------------------------
 I1 the mask of the global part is written as (row - column + size of the WHOLE remainder
    tensor) >= n_local.  That tensor already holds the whole input chunk, so the condition
    is always true for the remainder keys copied in step 3.  For a multi-row block the
    early rows therefore see some keys twice: in the local part and (at distance
    n_local - 1) in the global part.  For one-row steps it is exact.  Reproduced.
    (The mask is true for init and block keys as well: the global part has no mask.)
 I2 init rows are moved one by one as soon as the remainder is longer than n_local: the
    number of init keys grows during the prompt, and with execution blocks of m rows the
    moves happen after the block.
 I3 ties in topk (block choice, representatives) are left to torch.topk.
 I4 scores, means and representatives are fp16 tensors in the reference; float32 here.
    Close candidates can therefore be chosen differently.
 I5 triton path: _score_kernel masks padded query rows only if the number of KEYS is not a
    multiple of 64 (it tests IS_EVEN_N where IS_EVEN_M is meant).  If the key count is a
    multiple of 64 and the row count is not (every decode step with kv length % 64 == 0),
    up to 63 all-zero rows add about uniform probability to the scores of step 5.  Not
    reproduced (the torch class has no such effect).
 I6 n_local < exc_block_size is refused by an assertion.
 I7 the result DOES depend on chunk_size and exc_block_size, unlike StreamingLLM.
 I8 greedy search feeds the prompt's first T-1 tokens in chunks, then the last one alone,
    so block choice for the last prompt token is its own.
"""
import torch

from streaming_oracle import Rope, spread, two_part_attention

F32 = torch.float32


class InfLLMLayer:
    """forward(q, k, v) with raw rows.  After a call:
      chosen   list per execution block of that call: chosen block numbers, ascending
      reprs    list of [H, d]: representative of every block
      repr_ids list of [H, repr_topk]: absolute token numbers behind it
      blocks   list of (first absolute token, k [Hk,b,d], v)
      init_k, rem_k: raw init and remainder keys; rem_first: token number of the first
    """

    def __init__(self, n_head, n_kv_head, head_dim, n_init, n_local, topk, block_size=128,
                 exc_block_size=512, repr_topk=4, base=10000.0, linear_factor=None):
        assert exc_block_size <= n_local                                   # I6
        self.H, self.Hk, self.d = n_head, n_kv_head, head_dim
        self.n_init, self.n_local, self.topk = n_init, n_local, topk
        self.block, self.exc, self.repr_topk = block_size, exc_block_size, repr_topk
        self.rope = Rope(head_dim, base, linear_factor)
        z = lambda: torch.empty(n_kv_head, 0, head_dim)
        self.loc_k, self.loc_v, self.init_k, self.init_v = z(), z(), z(), z()
        self.rem_k, self.rem_v = z(), z()
        self.rem_score = torch.empty(n_head, 0)
        self.rem_first = 0
        self.init_done = False
        self.blocks, self.reprs, self.repr_ids, self.chosen = [], [], [], []
        self.n = 0

    def _choose(self, qg):
        if len(self.blocks) <= self.topk:
            return list(range(len(self.blocks)))
        score = torch.stack(self.reprs).flatten(1) @ qg.mean(1).flatten()
        return sorted(score.topk(self.topk).indices.tolist())              # I3

    def forward(self, q, k, v):
        q, k, v = (t.to(F32).transpose(0, 1) for t in (q, k, v))
        total_in = q.shape[1]
        self.loc_k, self.loc_v = torch.cat([self.loc_k, k], 1), torch.cat([self.loc_v, v], 1)
        held = self.loc_k.shape[1]
        st, ed = 0, self.rem_k.shape[1]            # remainder rows in use: [st, ed)
        self.rem_k, self.rem_v = torch.cat([self.rem_k, k], 1), torch.cat([self.rem_v, v], 1)
        self.rem_score = torch.cat([self.rem_score, torch.zeros(self.H, total_in)], 1)
        qg_all = self.rope.rotate(q, self.n_local - 1, 1)
        outs, self.chosen = [], []
        for a in range(0, total_in, self.exc):
            b = min(a + self.exc, total_in)
            m = b - a
            lo, hi = max(held + a - total_in - self.n_local, 0), held + b - total_in
            nl = hi - lo
            ql = self.rope.rotate(q[:, a:b], nl - m, m)
            kl = self.rope.rotate(self.loc_k[:, lo:hi], 0, nl)
            dist = torch.arange(m)[:, None] - torch.arange(nl)[None, :] + (nl - m)
            see_l = (dist < self.n_local) & (dist >= 0)

            qg = qg_all[:, a:b]
            pick = self._choose(qg)
            self.chosen.append(pick)
            extra = max(ed - st + m - self.n_local, 0)
            kg = [self.blocks[i][1] for i in pick] + [self.init_k, self.rem_k[:, st:st + extra]]
            vg = [self.blocks[i][2] for i in pick] + [self.init_v, self.rem_v[:, st:st + extra]]
            kg, vg = torch.cat(kg, 1), torch.cat(vg, 1)
            before = kg.shape[1] - extra           # columns ahead of the remainder keys
            dist = torch.arange(m)[:, None] - torch.arange(kg.shape[1])[None, :] + (self.rem_k.shape[1] + before)
            see_g = dist >= self.n_local                                   # I1

            out, (p_local, _) = two_part_attention(
                [(ql, spread(kl, self.H), spread(self.loc_v[:, lo:hi], self.H), see_l),
                 (qg, spread(kg, self.H), spread(vg, self.H), see_g)], self.d)
            outs.append(out)

            # book-keeping: scores, init rows, new blocks
            ed += m
            s = p_local.sum(1)[:, -(m + self.n_local):]
            self.rem_score[:, ed - s.shape[1]:ed] += s
            length = ed - st
            if not self.init_done and length > self.n_local:
                mv = min(self.n_init - self.init_k.shape[1], length - self.n_local)
                self.init_k = torch.cat([self.init_k, self.rem_k[:, st:st + mv]], 1)
                self.init_v = torch.cat([self.init_v, self.rem_v[:, st:st + mv]], 1)
                st, length = st + mv, length - mv
                self.init_done = self.init_k.shape[1] == self.n_init
            while length - self.block >= self.n_local:
                length -= self.block
                bk, bv = self.rem_k[:, st:st + self.block], self.rem_v[:, st:st + self.block]
                first = self.rem_first + st
                self.blocks.append((first, bk, bv))
                top = self.rem_score[:, st:st + self.block].topk(self.repr_topk, -1).indices
                rows = spread(bk, self.H).gather(1, top[..., None].expand(-1, -1, self.d))
                self.reprs.append(rows.mean(1))
                self.repr_ids.append(first + top)
                st += self.block
        self.n += total_in
        if held >= self.n_local:
            self.loc_k, self.loc_v = self.loc_k[:, -self.n_local:], self.loc_v[:, -self.n_local:]
        self.rem_k, self.rem_v = self.rem_k[:, st:], self.rem_v[:, st:]
        self.rem_score = self.rem_score[:, st:].contiguous()
        self.rem_first += st
        return torch.cat(outs, 1).transpose(0, 1).contiguous()


def run(q, k, v, n_prompt, chunk=8192, on_state=None, **kw):
    """All rows: prompt chunks, the last prompt token alone (I8), then one row per step."""
    layer = InfLLMLayer(q.shape[1], k.shape[1], q.shape[2], **kw)
    cuts = list(range(0, n_prompt - 1, chunk)) + list(range(n_prompt - 1, q.shape[0])) + [q.shape[0]]
    outs = []
    for a, b in zip(cuts, cuts[1:]):
        outs.append(layer.forward(q[a:b], k[a:b], v[a:b]))
        if on_state:
            on_state(b, layer)
    return torch.cat(outs), layer
