#!/usr/bin/env python3
"""The World tokenizer of RWKV against the package `rwkv` (0.8.25).

    python tests/oracle/tok_world.py RWKV_PACKAGE_FOLDER tests/fixtures/tok/world            a small vocabulary and its cases
    python tests/oracle/tok_world.py RWKV_PACKAGE_FOLDER FOLDER --whole 10000                the whole vocabulary, more texts

Writes FOLDER/rwkv_vocab_v20230424.txt and FOLDER/cases.json: [[text, ids], …] and, of random ids, [[ids, text], …], decoded at
once ("decode") and as the package prints an answer while it makes it ("answer": utils.PIPELINE.generate; only the model is ours).
The small vocabulary is made of all bytes, every 150th token of each kind of literal, and the tokens named in WORDS.
"""
import json
import os
import random
import sys

sys.path.insert(0, sys.argv[1])
import torch  # noqa: E402
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER  # noqa: E402
from rwkv.utils import PIPELINE, PIPELINE_ARGS  # noqa: E402

NAME = "rwkv_vocab_v20230424.txt"
source = os.path.join(sys.argv[1], "rwkv", NAME)
folder, whole = sys.argv[2], "--whole" in sys.argv
n = int(sys.argv[-1]) if whole else 300
WORDS = {b"\n\n", b"User", b":", b" hi", b" 0", b"12", b"Assistant", b" the", b"the", b" token", b"\xef\xbf\xbd", b" \\", b" \xe2\x96\x81"}
lines = open(source, encoding="utf-8").readlines()
kept, seen = [], {}
for line in lines:
    literal = line[line.index(" ") + 1:line.rindex(" ")]
    value = eval(literal)  # our own copy of a published file
    value = value.encode() if isinstance(value, str) else value
    kind = literal[0] + ("x" if "\\x" in literal else "u" if "\\u" in literal else "\\" if "\\" in literal else "")
    seen[kind] = seen.get(kind, 0) + 1
    rare = len([1 for x in seen if x == kind]) and seen[kind] <= 3
    if whole or len(value) == 1 or value in WORDS or rare or seen[kind] % 150 == 0:
        kept.append((line, value))
os.makedirs(folder, exist_ok=True)
path = os.path.join(folder, NAME)
with open(path, "w", encoding="utf-8") as f:
    f.writelines(line for line, _ in kept)
tok = TRIE_TOKENIZER(path)
rnd = random.Random(5)
texts = ["", "User: hi\n\nAssistant:", " 0 12\n\n", "naïve café \u2581 \ufffd 中文字 😀 \\ ' \" \x00 \x7f end"]
values = [v for _, v in kept]
while len(texts) < n:
    parts = []
    for _ in range(rnd.randrange(1, 12)):
        if rnd.random() < 0.7:
            parts.append(rnd.choice(values).decode("utf-8", "ignore"))
        else:
            parts.append(chr(rnd.choice([rnd.randrange(0x80), rnd.randrange(0x3000), rnd.randrange(0xE000, 0x11000)])))
    texts.append("".join(parts))
ids = [int(line.split(" ")[0]) for line, _ in kept]
decoded = [[]] + [[rnd.choice(ids) for _ in range(rnd.randrange(1, 7))] for _ in range(n // 3)] + [[ids[0], 0], [max(ids), ids[3]]]


class Pipeline(PIPELINE):
    """Its loop and its tokenizer; the tokens are given."""

    def __init__(self, tokens):
        self.model, self.tokenizer, self.tokens = self, tok, list(tokens)

    def forward(self, tokens, state):
        return torch.zeros(65536), state

    def sample_logits(self, logits, temperature=1.0, top_p=0.85, top_k=0):
        return self.tokens.pop(0)


def answer(tokens):
    return Pipeline(tokens).generate("a", token_count=len(tokens), args=PIPELINE_ARGS(top_p=0))


byte = {b: tok.token2idx[bytes([b])] for b in range(256)}
smile, hi, end = [byte[b] for b in "😀".encode()], [byte[b] for b in b"hi"], [0]
answers = [
    hi, hi + end, hi + end + hi, hi + smile, hi + smile + hi, hi + smile[:2], hi + smile[:2] + hi, hi + smile[2:] + hi, smile[:1] + hi,
    hi + [tok.token2idx["\ufffd".encode()]] + hi, hi + [65530] + hi, hi + [byte[0]] + hi, hi + [byte[0xED], byte[0xA0], byte[0x80]] + hi,
]
by_text = random.Random(6)
for _ in range(200):  # texts byte by byte, some with a byte too many or too few, some with an end within
    run = [byte[b] for b in by_text.choice(texts).encode()[: by_text.randrange(1, 40)]]
    if by_text.random() < 0.4:
        run.insert(by_text.randrange(len(run) + 1), by_text.choice([0, byte[0x80], byte[0xE4], by_text.choice(ids)]))
    answers.append(run)
cases = {"encode": [[t, tok.encode(t)] for t in texts], "decode": [[d, tok.decode(d)] for d in decoded], "answer": [[a, answer(a)] for a in answers]}
with open(os.path.join(folder, "cases.json"), "w") as f:
    json.dump(cases, f, ensure_ascii=True, separators=(",", ":"))
    f.write("\n")
print(len(kept), "tokens", len(texts), "texts", sorted(seen.items()))
