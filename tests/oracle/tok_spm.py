"""Compares src/tok with sentencepiece itself: ids of texts from a folder's tokenizer.model, text of ids.

    tok_spm.py DRIVER WHERE/NAME [...] [--count 10000]      DRIVER as in tok_compare.py

Two things are known to differ and are left out: sentencepiece spells control pieces in a text out, where the field's other
tokenizers take their ids; and of a run of byte pieces that is not UTF-8 as a whole it keeps what is, where `tokenizers`
puts U+FFFD for every byte (lists of ids here hold no bytes).
"""
import argparse
import os
import random
import sys

import sentencepiece

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tok_compare import ask, repeated, show  # noqa: E402
from tok_texts import texts  # noqa: E402


def compare(driver, folder, count):
    sp = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    n = sp.get_piece_size()
    control = [sp.id_to_piece(i) for i in range(n) if sp.is_control(i) or sp.is_unknown(i)]
    plain = [i for i in range(n) if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))]
    user = [sp.id_to_piece(i) for i in plain if sp.get_score(i) == 0]  # user-defined ones, and the first of the others
    rnd = random.Random(3)
    all_texts = [*texts(7, count, rnd.sample(user, min(60, len(user)))), *repeated(9, count // 20)]
    all_texts = [t for t in all_texts if "\x00" not in t and not any(c in t for c in control)]
    lists = [[rnd.choice(plain) for _ in range(rnd.choice((1, 2, 5, 30)))] for _ in range(count // 3)]
    questions = [{"text": t, "special": False} for t in all_texts] + [{"ids": ids, "skip": False} for ids in lists]
    want = [sp.encode(t) for t in all_texts] + [sp.decode(ids) for ids in lists]
    got = ask(driver, folder, questions)
    bad = [k for k in range(len(want)) if got[k] != want[k]]
    show(questions, want, got, bad)
    print(f"{folder}: {len(all_texts)} texts, {len(lists)} id lists, {len(bad)} differ", flush=True)
    return len(bad)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("driver")
    p.add_argument("folders", nargs="+")
    p.add_argument("--count", type=int, default=10000)
    a = p.parse_args()
    return sum(compare(a.driver, folder, a.count) for folder in a.folders) > 0


if __name__ == "__main__":
    sys.exit(main())
