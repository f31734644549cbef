#!/usr/bin/env python3
"""The World tokenizer of RWKV against the package `rwkv` (0.8.25).

    python tests/oracle/tok_world.py RWKV_PACKAGE_FOLDER tests/fixtures/tok/world            a small vocabulary and its cases
    python tests/oracle/tok_world.py RWKV_PACKAGE_FOLDER FOLDER --whole 10000                the whole vocabulary, more texts

Writes FOLDER/rwkv_vocab_v20230424.txt and FOLDER/cases.json: [[text, ids], …] and, of random ids, [[ids, text], …].
The small vocabulary is made of all bytes, every 150th token of each kind of literal, and the tokens named in WORDS.
"""
import json
import os
import random
import sys

sys.path.insert(0, sys.argv[1])
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER  # noqa: E402

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
with open(os.path.join(folder, "cases.json"), "w") as f:
    json.dump({"encode": [[t, tok.encode(t)] for t in texts], "decode": [[d, tok.decode(d)] for d in decoded]}, f, ensure_ascii=True, separators=(",", ":"))
    f.write("\n")
print(len(kept), "tokens", len(texts), "texts", sorted(seen.items()))
