"""Writes what test_prompt.c is held against: a small random XLM-R token classifier with a real Unigram tokenizer, its logits by
transformers, and texts compressed by PyPI's llmlingua (0.2.2) on it.

    prompt_fixtures.py OUT                                    the fixture: short texts written here, a small character map, few ranks
    prompt_fixtures.py OUT --ranks FILE --longbench A.jsonl… [--cases CASES.json] [--count N]
                                                              real texts, the nmt_nfkc character map, all ranks of cl100k_base: not shipped
Both with [--contexts N]: so many runs with several contexts and random options (60); with --cases also upstream's own six calls,
and published.json: CASES.json as this encoder answers it, for `llmlingua2_cases OUT/encoder FILE OUT/published.json`.
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


def call(c, context, **options):
    """The text, and '0' or '1' for every word where words were judged."""
    plain, judged = c._PromptCompressor__compress, []
    c._PromptCompressor__compress = lambda *a, **k: (judged.append(k["reduce_rate"] > 0), plain(*a, **k))[1]
    try:
        r = c.compress_prompt_llmlingua2(context, return_word_label=True, word_sep="\x1f", label_sep="\x1e", **options)
    finally:
        c._PromptCompressor__compress = plain
    labelled = r["fn_labeled_original_prompt"]
    return r["compressed_prompt"], "".join(w.split("\x1e")[1] for w in labelled.split("\x1f")) if labelled and judged[0] else ""


def compress(c, text, rate, force=FORCE, drop=True, digits=False):
    out, kept = call(c, text, rate=float(1 / rate), force_tokens=list(force), chunk_end_tokens=[".", "\n"], drop_consecutive=drop,
                     force_reserve_digit=digits)
    return {"rate": rate, "text": out, "kept": kept, "force": list(force), "drop": drop, "digits": digits}


# ---- several contexts ----

CATEGORIES = ["\n", "。", "：", "？", "类别：", "农业、农村", "军事", "文学、艺术", "体育", "传媒业", "电子信息产业", "文化、休闲娱乐", "社会、劳动", "经济",
              "服务业、旅游业", "环境、气象", "能源、水务、水利", "财政、金融", "教育", "科学技术", "对外关系、国际关系", "矿业、工业", "政治",
              "交通运输、邮政、物流", "灾难、事故", "基本建设、建筑业、房地产", "医药、卫生", "法律、司法", "商业、外贸、海关"]
SIGNS = ["+", "-", "*", "×", "/", "÷", "=", "The answer is", "\n"]


def published(cases):
    """The calls of upstream's tests/test_llmlingua2.py."""
    sums, minutes, talk = (cases[k].split("\n\n") for k in ("GSM8K_PROMPT", "MEETINGBANK_PROMPT", "PROMPT"))
    ends = ["\n", ".", "!", "?"]
    yield [cases["PROMPT"]], dict(rate=0.33, force_tokens=ends)
    yield talk, dict(target_token=40, use_context_level_filter=True, force_tokens=ends)
    yield sums[:1], dict(target_token=170, force_tokens=[*SIGNS, "Question:"], force_reserve_digit=True)
    yield minutes[:1], dict(target_token=150, force_tokens=["\n", ".", "?", "!"], drop_consecutive=True)
    yield sums, dict(target_token=150, use_context_level_filter=True, force_tokens=SIGNS, force_reserve_digit=True)
    yield cases["LONGBENCH_PROMPT_LIST"], dict(target_token=1000, use_context_level_filter=True, force_tokens=CATEGORIES, drop_consecutive=True)


def write_published(c, path, cases):
    """CASES.json with what this encoder makes of the six calls: for real/llmlingua2_cases.c."""
    names = [f"{k}_CONTEXT_PROMPT" for k in (
        "COMPRESSED_SINGLE", "COMPRESSED_MULTIPLE", "GSM8K_150TOKENS_COMPRESSED_SINGLE", "MEETINGBANK_150TOKENS_COMPRESSED_SINGLE",
        "GSM8K_150TOKENS_COMPRESSED_MULTIPLE", "LONGBENCH_1000TOKENS_COMPRESSED_MULTIPLE")]
    assert all(k in cases for k in names)
    with open(path, "w") as f:
        json.dump({**cases, **{k: call(c, x, **o)[0] for k, (x, o) in zip(names, published(cases))}}, f)


def parts(texts):
    """Contexts to draw from: paragraphs, and a few of several chunks."""
    short = [p for _, t in texts for p in t.split("\n\n") if p.strip()]
    return short + [t[:6000] for _, t in texts if len(t) > 3000][:4] + [t[:900] for _, t in texts if len(t) > 1800]


def random_call(rnd, pool, c):
    contexts = [rnd.choice(pool)[: rnd.choice((40, 200, 600, 1200, 6000))] for _ in range(rnd.choice((1, 2, 3, 4, 5, 6, 8, 11)))]
    if rnd.random() < 0.3:
        contexts.append(rnd.choice(contexts))
    if rnd.random() < 0.12:
        contexts.insert(rnd.randrange(len(contexts) + 1), rnd.choice(("", "  ", "\n", " \n\n")))
    n, tokens = len(contexts), sum(len(c.oai_tokenizer.encode(x, disallowed_special=())) for x in contexts)
    o = {"rate": rnd.choice((0.1, 0.125, 0.25, 0.33, 0.5, 0.6, 0.7, 0.9, 1.0, rnd.uniform(0.02, 1))), "use_context_level_filter": rnd.random() < 0.85,
         "use_token_level_filter": rnd.random() < 0.8, "drop_consecutive": rnd.random() < 0.5, "force_reserve_digit": rnd.random() < 0.4,
         "force_tokens": rnd.choice((FORCE, ["\n", ".", "!", "?"], SIGNS, CATEGORIES, [], [".", "the report", "\n", "."]))}
    if rnd.random() < 0.4:
        o["target_token"] = rnd.choice((rnd.randint(1, tokens + 50), max(1, tokens // 4), tokens or 1))
    if rnd.random() < 0.3:
        o["target_context"] = rnd.randint(0, n + 1)
    if rnd.random() < 0.3:
        o["context_level_rate"] = rnd.choice((0.0, 0.2, 0.3, 0.5, 0.7, 1.0, rnd.random()))
    if rnd.random() < 0.3:
        o["context_level_target_token"] = rnd.randint(0, tokens + 50)
    if rnd.random() < 0.3:
        o["force_context_ids"] = rnd.sample(range(n), rnd.randint(0, n))
    return contexts, o


def context_runs(c, watch, texts, cases, n):
    """Runs of which the package fails because a context is empty have no text: to be refused."""
    rnd, pool, out, count = random.Random(11), parts(texts), [], dict.fromkeys(("runs", "chosen", "empty", "near", "failed"), 0)
    for contexts, o in [*(published(cases) if cases else []), *(random_call(rnd, pool, c) for _ in range(n))]:
        run, watch.near = {"contexts": contexts, "options": o}, 0
        try:
            run["text"], run["kept"] = call(c, contexts, **o)
        except ZeroDivisionError:
            if all(c.tokenizer.tokenize(x) for x in contexts):
                raise
            run["text"] = None
        except (IndexError, ValueError) as e:  # a chunk without words
            print(f"the package fails: {e!r}")
            count["failed"] += 1
            continue
        if watch.near:
            count["near"] += 1
            continue
        count["runs"] += 1
        count["empty"] += run["text"] is None
        count["chosen"] += o.get("use_context_level_filter", False) and len(contexts) > 1
        out.append(run)
    print("contexts:", count)
    return out


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
    p.add_argument("--contexts", type=int, default=60)
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
    published_cases = json.load(open(args.cases)) if args.cases else None
    if args.cases:
        write_published(c, os.path.join(args.out, "published.json"), published_cases)
    runs = context_runs(c, watch, texts, published_cases, args.contexts)
    with open(os.path.join(args.out, "contexts.json"), "w") as f:
        json.dump(runs, f, ensure_ascii=False, separators=(",", ":"))
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
