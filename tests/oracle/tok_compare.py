"""Compares src/tok with the `tokenizers` library: ids of random texts, text of random ids.

    tok_compare.py DRIVER WHERE/NAME [...] [--count 10000] [--lines FILE]

DRIVER is tok_drive: gcc -D_GNU_SOURCE -O2 -Isrc src/base/*.c src/tok/*.c tests/oracle/tok_drive.c -ljansson -lpcre2-8 -lutf8proc -lm Each NAME is a folder with tokenizer.json (what tok_models.py writes). If it also
holds gguf.json (the tokenizer keys of a GGUF file) or tokenizer.model, kvsweep's tokenizer is opened from that as well.
Lines of FILE are texts too. Of every third text the tokens are compared as well, and what the decoder makes of them.
"""
import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

import tokenizers
from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tok_texts import texts  # noqa: E402


def load(path):
    """tokenizers before 0.20 want merges as "left right"."""
    try:
        return Tokenizer.from_file(path)
    except Exception:
        j = json.load(open(path))
        j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
        return Tokenizer.from_str(json.dumps(j))


def ask(driver, model, questions):
    text = "".join(json.dumps(q) + "\n" for q in questions)
    done = subprocess.run([driver, model], input=text.encode(), stdout=subprocess.PIPE, check=True)
    lines = done.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(questions), (len(lines), len(questions))
    return [json.loads(line) for line in lines]


def clean_up(text):
    for a, b in ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
                 (" 've", "'ve"), (" 're", "'re")):
        text = text.replace(a, b)
    return text


def id_lists(tok, seed, count):
    """tokenizers 0.22 and later decode a token flagged "normalized" to its normalized text and do not take that for a special
    token; kvsweep gives the token's own text as the versions before did, so such ids are only used with those."""
    rnd = random.Random(seed)
    added = tok.get_added_tokens_decoder()
    changed = set()
    if tok.normalizer and tuple(map(int, tokenizers.__version__.split(".")[:2])) >= (0, 22):
        changed = {i for i, t in added.items() if t.normalized and tok.normalizer.normalize_str(t.content) != t.content}
    known = sorted(set(tok.get_vocab().values()) - changed)
    special = sorted(set(added) - changed) or known
    frequent = known[:600]
    for i in range(count):
        pool = rnd.choice((known, known, frequent))
        yield [rnd.choice(special if rnd.random() < 0.1 else pool) for _ in range(rnd.choice((0, 1, 2, 3, 7, 20, 60)))]


def repeated(seed, count):
    """Texts in which many ways to cut are equally good."""
    rnd = random.Random(seed)
    for _ in range(count):
        unit = "".join(rnd.choice("abeint s.,'1▁") for _ in range(rnd.choice((1, 2, 3, 5))))
        yield unit * rnd.randrange(2, 60)


def show(questions, want, got, bad):
    """The first few questions that were answered otherwise."""
    for k in bad[:5]:
        print("  differs:", json.dumps(questions[k])[:150], "\n    library:", str(want[k])[:150], "\n    kvsweep:", str(got[k])[:150])


def compare(driver, name, model, tok, count, clean, lines):
    specials = [t.content for t in tok.get_added_tokens_decoder().values()]
    questions, want = [], []
    all_texts = [*texts(7, count, specials[:60] + specials[-5:]), *repeated(9, count // 20), *lines]
    for i, text in enumerate(all_texts):
        questions.append({"text": text, "special": i % 2 == 0})
        try:
            want.append(tok.encode(text, add_special_tokens=i % 2 == 0).ids)
        except BaseException as e:  # the library panics on some overlaps of added tokens
            assert "Panic" in type(e).__name__, e
            questions.pop()
            continue
        tokens = tok.encode(text, add_special_tokens=False).tokens if i % 3 == 0 else [""]
        if all(tokens) and "\x00" not in text:
            questions += [{"pieces": text}, {"join": tokens}]
            want += [tokens, tok.decoder.decode(tokens) if tok.decoder else " ".join(tokens)]
    for i, ids in enumerate(id_lists(tok, 8, count)):
        questions.append({"ids": ids, "skip": i % 2 == 0})
        text = tok.decode(ids, skip_special_tokens=i % 2 == 0)
        want.append(clean_up(text) if clean else text)
    got = ask(driver, model, questions)
    bad = [k for k in range(len(want)) if got[k] != want[k] and not (isinstance(want[k], str) and "\x00" in want[k])]
    show(questions, want, got, bad)
    print(f"{name}: {len(all_texts)} texts, {count} id lists ({len(want)} questions), {len(bad)} differ", flush=True)
    return len(bad)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("driver")
    p.add_argument("folders", nargs="+")
    p.add_argument("--count", type=int, default=10000)
    p.add_argument("--lines")
    a = p.parse_args()
    bad = 0
    lines = open(a.lines, encoding="utf-8").read().split("\n") if a.lines else []
    for folder in a.folders:
        tok = load(os.path.join(folder, "tokenizer.json"))
        config = os.path.join(folder, "tokenizer_config.json")
        clean = os.path.exists(config) and json.load(open(config)).get("clean_up_tokenization_spaces", True)
        bad += compare(a.driver, folder, folder, tok, a.count, clean, lines)
        gguf = os.path.join(folder, "gguf.json")
        if os.path.exists(gguf):
            bad += compare(a.driver, gguf, gguf, tok, a.count, clean, lines)
        spm = os.path.join(folder, "tokenizer.model")
        if os.path.exists(spm):
            with tempfile.TemporaryDirectory() as alone:
                shutil.copy(spm, alone)
                if os.path.exists(config):
                    shutil.copy(config, alone)
                bad += compare(a.driver, spm, alone, tok, a.count, clean, lines)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
