"""Compares tok_open_tiktoken with PyPI's tiktoken (encode_ordinary, decode): random texts and id lists.

    tok_tiktoken.py ranks OUT.tiktoken [SIZE]          trains ranks (tiktoken's own educational trainer is not needed: byte-level BPE)
    tok_tiktoken.py compare DRIVER FILE.tiktoken [...] [--lines FILE]
    tok_tiktoken.py fixture OUT                        small ranks with cases.json for test_tok_unigram.c
"""
import base64
import json
import os
import random
import sys

import tiktoken
from tiktoken_ext import openai_public

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tok_models  # noqa: E402
from tok_compare import ask, repeated  # noqa: E402
from tok_texts import texts  # noqa: E402


def pattern():
    """The pattern of cl100k_base as the installed tiktoken has it; its ranks would be downloaded, so they are left out."""
    load, openai_public.load_tiktoken_bpe = openai_public.load_tiktoken_bpe, lambda *a, **k: {}
    try:
        return openai_public.cl100k_base()["pat_str"]
    finally:
        openai_public.load_tiktoken_bpe = load


def encoding(path):
    ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in open(path, "rb") if line.strip())}
    return tiktoken.Encoding("x", pat_str=pattern(), mergeable_ranks=ranks, special_tokens={})


def write_ranks(path, size):
    """Bytes first, then the tokens of a byte-level BPE trained here, in the order of its merges."""
    t = tok_models.train_byte_level(size)()
    letters = {}
    n = 0
    for b in range(256):
        plain = 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or 0xae <= b
        letters[chr(b if plain else 256 + n)] = b
        n += not plain
    vocab = {bytes(letters[c] for c in text): i for text, i in t.get_vocab().items()}
    order = sorted(vocab, key=lambda x: (len(x) > 1, vocab[x]))
    with open(path, "wb") as f:
        f.writelines(base64.b64encode(x) + b" %d\n" % i for i, x in enumerate(order))


def cases(enc, count, seed, lines=()):
    every = [*texts(seed, count), *repeated(seed + 1, count // 10), *lines]
    for text in every:
        yield {"text": text}, enc.encode_ordinary(text)
    rnd = random.Random(seed)
    for _ in range(count):
        ids = [rnd.randrange(enc.n_vocab) for _ in range(rnd.choice((0, 1, 2, 5, 20)))]
        yield {"ids": ids}, enc.decode(ids)


def compare(driver, path, lines):
    pairs = list(cases(encoding(path), 10000, 7, lines))
    got = ask(driver, path, [q for q, _ in pairs])
    bad = [(q, w, g) for (q, w), g in zip(pairs, got) if w != g and not (isinstance(w, str) and "\x00" in w)]
    for q, w, g in bad[:5]:
        print("  differs:", json.dumps(q)[:150], "\n    tiktoken:", str(w)[:150], "\n    kvsweep: ", str(g)[:150])
    print(f"{path}: {len(pairs) - 10000} texts, 10000 id lists, {len(bad)} differ", flush=True)
    return len(bad)


def fixture(out):
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, "small.tiktoken")
    write_ranks(path, 1500)
    pairs = [(q, w) for q, w in cases(encoding(path), 260, 5) if len(str(w)) < 500 and "\x00" not in str(q) + str(w)]
    encode = [[q["text"], w] for q, w in pairs if "text" in q][:220]
    decode = [[q["ids"], w] for q, w in pairs if "ids" in q][:100]
    with open(os.path.join(out, "cases.json"), "w") as f:
        json.dump({"encode": encode, "decode": decode}, f, ensure_ascii=False, separators=(",", ":"))


def main():
    what, args = sys.argv[1], sys.argv[2:]
    if what == "ranks":
        write_ranks(args[0], int(args[1]) if len(args) > 1 else 8000)
    elif what == "fixture":
        fixture(*args)
    else:
        lines = []
        if "--lines" in args:
            lines = open(args.pop(args.index("--lines") + 1), encoding="utf-8").read().split("\n")
            args.remove("--lines")
        return sum(compare(args[0], path, lines) for path in args[1:]) > 0


if __name__ == "__main__":
    sys.exit(main())
