"""Writes what test_prompt.c is held against: a small random XLM-R token classifier with a real Unigram tokenizer, its logits by
transformers, and texts compressed by PyPI's llmlingua (0.2.2) on it.

    prompt_fixtures.py OUT                                    the fixture: short texts written here, a small character map, few ranks
    prompt_fixtures.py OUT --ranks FILE --longbench A.jsonl… [--cases CASES.json] [--count N]
                                                              real texts, the nmt_nfkc character map, all ranks of cl100k_base: not shipped
"""
import argparse
import base64
import json
import os
import random
import shutil
import sys
import tempfile

import numpy as np
import tiktoken
import torch
from safetensors.torch import save_file
from transformers import XLMRobertaConfig, XLMRobertaForTokenClassification

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tok_unigram  # noqa: E402

RATES = (2, 4, 6, 8)
FORCE = ["\n", ".", "!", "?", ","]
PATTERN = (r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""")
NAME = "xlm-roberta-large-small"  # llmlingua goes by the name


def make_tokenizer(folder, lines, size, rules):
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "rules.tsv")
        if rules:
            with open(path, "w") as f:
                for a, b in (r for r in tok_unigram.RULES if r[0] != r[1]):
                    f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
        model = tok_unigram.train(lines, os.path.join(tmp, "m"), size, path if rules else None)
        m = tok_unigram.Model(model)
    # As in XLM-R, "." and "," are two pieces (and so are marked), "!" and "?" are one.
    m.pieces = [p for p in m.pieces if p[0] not in ("▁.", "▁,")]
    known = {p[0] for p in m.pieces}
    m.pieces += [(p, -7.0) for p in ("▁!", "▁?", "▁", ".", ",") if p not in known]
    t = tok_unigram.xlmr_llmlingua(m)
    assert [len(t.encode(x, add_special_tokens=False)) for x in FORCE] == [0, 2, 1, 1, 2]
    t.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({**tok_unigram.CONFIG, "additional_special_tokens": tok_unigram.NEW, "tokenizer_class": "PreTrainedTokenizerFast"}, f)
    return t


def make_model(folder, n_vocab, width, layers):
    """Weights large enough that probabilities spread over 0..1; stored in f16, so both sides read the same values."""
    torch.manual_seed(7)
    cfg = XLMRobertaConfig(vocab_size=n_vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=2 * width,
                           max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2,
                           num_labels=2)
    m = XLMRobertaForTokenClassification(cfg).eval()
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "LayerNorm" in name:
                p.copy_(torch.rand_like(p) + 0.5 if name.endswith("weight") else torch.randn_like(p) * 0.2)
            elif name.endswith("bias"):
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 1.0 if "embeddings" in name else 1.2 / width**0.5)
    state = {k: v.to(torch.float16).contiguous() for k, v in m.state_dict().items() if not k.endswith("position_ids")}
    save_file(state, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    cfg.architectures = ["XLMRobertaForTokenClassification"]
    cfg.torch_dtype = "float32"
    j = cfg.to_dict()
    j["dtype"] = "float32"
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(j, f, indent=1)


def load_ranks(path, limit=None):
    rows = [line.split() for line in open(path, "rb")]
    return {base64.b64decode(a): int(b) for a, b in rows if limit is None or int(b) < limit}


def train_ranks(lines, size):
    """Ranks as tiktoken files hold them, made here (merges of byte pairs by frequency)."""
    from collections import Counter

    import regex
    words = Counter(w.encode() for line in lines for w in regex.findall(PATTERN, line))
    words = {tuple(bytes([b]) for b in w): n for w, n in words.items()}
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < size:
        pairs = Counter()
        for w, n in words.items():
            for p in zip(w, w[1:]):
                pairs[p] += n
        if not pairs:
            break
        a, b = max(pairs, key=lambda p: (pairs[p], p))
        ranks[a + b] = len(ranks)
        merged = {}
        for w, n in words.items():
            out, i = [], 0
            while i < len(w):
                if i + 1 < len(w) and w[i] == a and w[i + 1] == b:
                    out.append(a + b)
                    i += 2
                else:
                    out.append(w[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        words = merged
    return ranks


def compressor(folder, ranks):
    """The package as its users call it; only the ranks come from a file instead of a download."""
    encoding = tiktoken.Encoding("ranks", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    tiktoken.encoding_for_model = lambda name: encoding
    from llmlingua import PromptCompressor
    link = os.path.join(tempfile.mkdtemp(), NAME)
    os.symlink(os.path.abspath(folder), link)
    return PromptCompressor(link, device_map="cpu", use_llmlingua2=True)


class Watch:
    """np.percentile, noting whether a value lies so near a threshold that another order of additions could move it."""

    def __init__(self):
        import llmlingua.prompt_compressor as pc
        self.plain, self.near, self.calls = np.percentile, 0, 0
        pc.np.percentile = self

    def __call__(self, values, q):
        th = self.plain(values, q)
        d = np.abs(np.asarray(values, dtype=np.float64) - th)
        self.near += bool(((d > 0) & (d < 2e-5)).any())
        self.calls += 1
        return th


def compress(c, text, rate, force=FORCE, drop=True, digits=False):
    r = c.compress_prompt_llmlingua2(text, rate=float(1 / rate), force_tokens=list(force), chunk_end_tokens=[".", "\n"], return_word_label=True,
                                     drop_consecutive=drop, force_reserve_digit=digits, word_sep="\x1f", label_sep="\x1e")
    labelled = r["fn_labeled_original_prompt"]
    kept = [w.split("\x1e")[1] for w in labelled.split("\x1f")] if labelled and rate > 1 else []
    return {"rate": rate, "text": r["compressed_prompt"], "kept": "".join(kept), "force": list(force), "drop": drop, "digits": digits}


def own_texts():
    """Dialogue, arithmetic, minutes, CJK lists, code, oddities: the structure of real prompts, written for this test."""
    rnd = random.Random(5)
    names = ["Ana", "Boris", "Chen", "Dora"]
    talk = ["um, I was thinking about the plan", "we need to, uh, change some dates", "right? Let us look at the budget", "I agree!! But the costs",
            "it is 3.14 percent, or 2,500 in total", "no... wait; not yet", "what about the north-side office (the old one)?"]
    nouns = "report ordinance district motion council member street repair water budget library item amendment hearing vote".split()
    dialogue = "\n\n".join(f"{rnd.choice(names)}: {rnd.choice(talk)}, {rnd.choice(talk)}." for _ in range(24))
    sums = "\n".join(f"Question: {rnd.choice(names)} has {rnd.randint(2, 90)} apples and buys {rnd.randint(1, 9)}.{rnd.randint(0, 9)} kg more, "
                     f"how many are left?\nLet's think step by step\n{rnd.randint(2, 9)} x {rnd.randint(2, 9)} = {rnd.randint(4, 81)} apples.\n"
                     for _ in range(14))
    minutes = " ".join(" ".join(rnd.choice(nouns) for _ in range(rnd.randint(4, 14))).capitalize() + rnd.choice([".", ".", "?", "!", ",", " -"])
                       for _ in range(160))
    flat = " ".join(rnd.choice(nouns) for _ in range(1500))  # no place to cut a chunk
    chinese = "".join(f"\n\n新闻内容：\n（服务）第{i}届年会将于２００{i}年召开，\u3000\u3000有{i}.{i}亿元，联系人：王岭\u3000刘鹏。\n类别：商业、外贸" for i in range(9))
    code = "\n".join(f"    def f{i}(self, a, b):\n        if a[{i}] == b.x:  # {rnd.choice(nouns)}\n            return {{'k': a + {i}.5}}\n" for i in range(18))
    odd = ("ﬁrst … ½ cup\u00a0of ①\u200b 🦊🦊 \U0001d54f 한국어 abc\u00ad def <mask> <s> [NEW1] [NEW77] <unk> !!! ?? ,, .. \n\n\n\n . . , ▁▁x "
           "tab\tend\r\n() [] ''quoted''  “q”  e\u0301 -- a_b #1 100% ~x~ ...!?\n") * 6
    every = [("dialogue", dialogue), ("sums", sums), ("minutes", minutes), ("flat", flat), ("chinese", chinese), ("code", code), ("odd", odd),
             ("short", "Hello there."), ("one", "word"), ("stops", ".\n.\n...\n\n"), ("blank", "   \n  "), ("empty", ""), ("long line", dialogue.replace("\n", " ").replace(".", ";") * 2)]
    return every


def real_texts(args):
    texts = []
    for path in args.longbench:
        rows = [json.loads(line) for line in open(path)]
        for i in range(min(args.count, len(rows))):
            texts.append((os.path.basename(path) + f"/{i}", rows[i]["context"][: args.chars]))
    if args.cases:
        cases = json.load(open(args.cases))
        for k, v in cases.items():
            if k.endswith("PROMPT") or k.endswith("PROMPT_LIST"):
                for i, t in enumerate(v if isinstance(v, list) else [v]):
                    texts.append((f"{k}/{i}", t))
    return texts


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--ranks")
    p.add_argument("--longbench", nargs="*", default=[])
    p.add_argument("--cases")
    p.add_argument("--count", type=int, default=2)
    p.add_argument("--chars", type=int, default=40000)
    args = p.parse_args()
    torch.set_num_threads(1)
    real = bool(args.longbench)
    texts = real_texts(args) if real else own_texts()
    folder = os.path.join(args.out, "encoder")
    shutil.rmtree(args.out, ignore_errors=True)
    os.makedirs(folder)
    lines = list(tok_unigram.longbench(args.longbench)) if real else [part for _, t in texts for part in t.splitlines() if part.strip()]
    t = make_tokenizer(folder, lines, 6000 if real else 420, not real)
    make_model(folder, t.get_vocab_size(), 64 if real else 32, 3 if real else 2)
    ranks = load_ranks(args.ranks) if args.ranks else train_ranks(lines, 700)
    with open(os.path.join(args.out, "ranks.tiktoken"), "w") as f:
        f.writelines(f"{base64.b64encode(k).decode()} {v}\n" for k, v in sorted(ranks.items(), key=lambda x: x[1]))
    c = compressor(folder, ranks)
    cases, watch, dropped = [], Watch(), 0
    for name, text in texts:
        try:
            runs = []
            wanted = [(r, FORCE) for r in RATES]
            if not real:
                wanted += [(1, FORCE), (3, ["\n", "."]), (5, []), (4, FORCE, False, True), (3, ["the report", "x", "\n"], True, True)]
            for options in wanted:
                watch.near = 0
                run = compress(c, text, *options)
                dropped += watch.near > 0
                if not watch.near:
                    runs.append(run)
        except (IndexError, ValueError) as e:  # np.percentile of nothing: the package has no answer here
            print(f"{name}: the package fails: {e!r}")
            continue
        cases.append({"name": name, "text": text, "runs": runs})
    with open(os.path.join(args.out, "cases.json"), "w") as f:
        json.dump(cases, f, ensure_ascii=False, separators=(",", ":"))
    print(f"{sum(len(x['runs']) for x in cases)} runs, {dropped} left out for a near tie, {watch.calls} thresholds")
    write_logits(args.out, c, t)
    report(c, texts)


def write_logits(out, c, t):
    """Token ids and logits by transformers: several lengths, alone, without padding."""
    rnd = random.Random(3)
    rows = []
    with torch.no_grad():
        for n in (1, 2, 7, 64, 300, 512):
            ids = [rnd.randrange(4, t.get_vocab_size()) for _ in range(n)]
            logits = c.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, n, dtype=torch.long)).logits[0].double().numpy()
            step = 1 if n < 100 else 17
            rows.append({"ids": ids, "step": step, "logits": [[round(float(x), 7) for x in r] for r in logits[::step]]})
    with open(os.path.join(out, "logits.json"), "w") as f:
        json.dump(rows, f, separators=(",", ":"))


def report(c, texts):
    ids = c.tokenizer(texts[0][1], add_special_tokens=False).input_ids[:500]
    with torch.no_grad():
        p = torch.softmax(c.model(input_ids=torch.tensor([ids])).logits, -1)[0, :, 1].numpy()
    print("P(keep) deciles", np.round(np.quantile(p, np.linspace(0, 1, 11)), 4), "dtype", c.model.dtype, "pieces", len(ids))


if __name__ == "__main__":
    main()
