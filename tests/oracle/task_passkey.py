"""Checks the needle's prompts against a transcription of the reference's rules (files sorted by name) on folders of made-up
texts, and the token-sized prompts for being as long as they may.

usage: task_passkey.py [ROUNDS]
With PAUL_GRAHAM=DIR in the environment the reference's own essays are used too, and the published hashes are compared.
"""
import hashlib
import os
import random
import re
import sys
import tempfile

import task_lib

lib = task_lib.build()
INSTRUCTION = ("There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about "
               "the important information there.\n")
QUESTION = "\nWhat is the pass key? The pass key is "
NEEDLE = "The pass key is <PASS KEY>. Remember it. <PASS KEY> is the pass key."


def grid(lo, hi, n):
    if lo == hi:
        return [lo]
    if n == 1:
        return [lo, hi]
    return [lo] + [lo + i * (hi - lo) / (n - 1) for i in range(1, n - 1)] + [hi]


def background(files, length):
    text, total, i = "", 0, 0
    while total < length:
        text += files[i % len(files)]
        total += len(files[i % len(files)].split())
        i += 1
    return "".join(re.findall(r"\S+\s*", text)[:length]).strip()


def prompt(text, depth, key):
    words = re.findall(r"\S+\s*", text)
    cut = int(len(words) * depth)
    left, right = "".join(words[:cut]).strip(), "".join(words[cut:]).strip()
    return INSTRUCTION + left + " " + NEEDLE.replace("<PASS KEY>", key) + " " + right + " " + "" + QUESTION


def prompts(files, lo, hi, n, depths, iterations, digits, seed):
    rng = random.Random(seed)
    for length in map(int, grid(lo, hi, n)):
        text = background(files, length)
        for depth in grid(0, 1, depths):
            for it in range(iterations):
                key = "".join(rng.choice("0123456789") for _ in range(digits))
                yield length, depth, it, key, prompt(text, depth, key)


def read(folder):
    return [open(os.path.join(folder, f), encoding="utf-8").read() for f in sorted(os.listdir(folder))]


def compare(folder, lo, hi, n, depths, iterations, digits, seed):
    t = task_lib.Task(lib, "passkey", haystack=folder, lengths=f"{lo}-{hi}x{n}", depths=depths, iterations=iterations,
                      digits=digits, seed=seed)
    want = list(prompts(read(folder), lo, hi, n, depths, iterations, digits, seed))
    assert len(t) == len(want), (len(t), len(want))
    for i, (length, depth, it, key, text) in enumerate(want):
        e = t[i]
        assert e.prompt().decode() == text, (folder, i, e.prompt().decode(), text)
        assert (e.length, e.depth, e.iteration, e.gold[0].decode()) == (length, depth, it, key)
        assert e.n_words == len(background(read(folder), length).split())
        assert e.id.decode() == f"len={length},depth={depth if 0 < depth < 1 else int(depth)},it={it}", e.id
    hashes = "\n".join(hashlib.sha256(t[i].prompt()).hexdigest() for i in range(len(t)))
    t.close()
    return hashlib.sha256(hashes.encode()).hexdigest()


def made_up(rng, folder):
    spaces = [" ", " ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\u00a0", "\u2003", "\u0085", "\u001f", "\u3000"]
    for _ in range(rng.randrange(1, 6)):
        n = rng.choice([0, 1, 3, 50, 200])
        body = rng.choice(["", " ", "\n"]) + "".join(
            "".join(rng.choice("ab\u00e9\u4f60\u200b\U0001f600.") for _ in range(rng.randrange(1, 6))) + rng.choice(spaces)
            for _ in range(n))
        body = body if rng.random() < 0.3 else body.rstrip()
        name = rng.choice(["b", "a", "Z", "\u00e9", "0"]) + str(rng.randrange(100)) + ".txt"
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as f:
            f.write(body)
    with open(os.path.join(folder, "m.txt"), "w") as f:
        f.write("one two three")


def check_tokens(rng):
    """Tokens of a made-up tokenizer: runs of letters cut into threes, everything else by character."""
    def count(s):
        return len(re.findall(r"[A-Za-z]{1,3}|[^A-Za-z]", s))
    length = rng.randrange(200, 6000)
    calls = [0]

    def counted(s):
        calls[0] += 1
        return count(s)
    t = task_lib.Task(lib, "passkey", counter=counted, unit="tokens", lengths=f"{length}+{2 * length}", depths=5, iterations=1,
                      seed=rng.randrange(1000))
    for i in range(len(t)):
        n = count(t[i].prompt().decode())
        assert t[i].length - 12 <= n <= t[i].length, (t[i].length, n)
    return calls[0] / len(t)


def main():
    rng = random.Random(5)
    for i in range(int(sys.argv[1]) if len(sys.argv) > 1 else 60):
        with tempfile.TemporaryDirectory() as folder:
            made_up(rng, folder)
            lo = rng.randrange(1, 300)
            hi = lo + rng.choice([0, 7, 100, 700])
            compare(folder, lo, hi, rng.choice([1, 2, 3, 7]) if hi - lo > 7 else 1, rng.choice([1, 2, 3, 10]), rng.choice([1, 3]),
                    rng.choice([1, 7, 64]), rng.choice([0, 42, 2**32 - 1, 2**32, 2**40 + 5]))
    print("prompts equal;", "counts per prompt in tokens:", [round(check_tokens(rng), 1) for _ in range(6)])
    essays = os.environ.get("PAUL_GRAHAM")
    if essays:
        for digits, want in ((7, "8680dbae4024d551374eeabb72af325e5d2510f83a9cdcf157ad6fa21d3f5625"),
                             (64, "a555510d956438ce0fca65f657eca1abfa5955dd8f4f8f2273fc45a15cd2cb7e")):
            assert compare(essays, 512, 20480, 10, 10, 3, digits, 42) == want
        print("published hashes equal")


if __name__ == "__main__":
    main()
