"""Checks every metric of src/task against the Python functions the reference calls (rouge 1.0.1, fuzzywuzzy 0.18.0 over
difflib) and against Python's own str and re, on random strings.

usage: task_metrics.py [ROUNDS [SEED]]      exits 1 on the first difference
"""
import collections
import ctypes as C
import difflib
import random
import re
import string
import sys
import unicodedata
import warnings

warnings.filterwarnings("ignore")
import rouge  # noqa: E402
from fuzzywuzzy import fuzz  # noqa: E402

import task_lib  # noqa: E402

lib = task_lib.build()
U = task_lib.utext
assert fuzz.SequenceMatcher is difflib.SequenceMatcher, "python-Levenshtein is installed: fuzz.ratio means something else"
MOVES = 985


# --- the reference's rules, as LongBench's metrics.py and the needle's eval_metrics.py state them ---
def normalise(s, article=" "):
    s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", article, s).split())


def contains(pred, key):
    return float(normalise(key, "") in normalise(pred, ""))


def qa_f1(pred, truth):
    p, t = normalise(pred).split(), normalise(truth).split()
    same = sum((collections.Counter(p) & collections.Counter(t)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(p), 1.0 * same / len(t)
    return (2 * precision * recall) / (precision + recall)


def stack_depth():
    frame, n = sys._getframe(1), 0
    while frame:
        frame, n = frame.f_back, n + 1
    return n


def rouge_l(pred, truth):
    """(Call it from plain Python frames: the C frames of an import or a callback count too.) With room for exactly MOVES moves: get_scores, _get_avg_scores, lambda, rouge_l_summary_level, _union_lcs, _recon_lcs
    are six frames above the recursion, which takes one frame per move and one for its end."""
    limit = sys.getrecursionlimit()
    try:
        scorer = rouge.Rouge(metrics=["rouge-l"])
        sys.setrecursionlimit(stack_depth() + 6 + MOVES + 1)
        return scorer.get_scores([pred], [truth], avg=True)["rouge-l"]["f"], False
    except RecursionError:
        return 0.0, True
    except Exception:
        return 0.0, False
    finally:
        sys.setrecursionlimit(limit)


def code_line(pred):
    for line in pred.lstrip("\n").split("\n"):
        if "`" not in line and "#" not in line and "//" not in line:
            return line
    return ""


def code_sim(pred, truth):
    return fuzz.ratio(code_line(pred), truth) / 100


def lcs(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def code_sim_indel(pred, truth):
    a, b = code_line(pred), truth
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    distance, total = len(a) + len(b) - 2 * lcs(a, b), len(a) + len(b)
    return int(round(100 * ((total - distance) / total))) / 100


def classification(pred, truth, classes):
    found = [c for c in classes if c in pred]
    for c in found:
        if c in truth and c != truth:
            found.remove(c)
    return 1.0 / len(found) if truth in found else 0.0


def share(pred, number):
    numbers = re.findall(r"\d+", pred)
    return 0.0 if not numbers else sum(n == number for n in numbers) / len(numbers)


def retrieval(pred, truth):
    return share(pred, re.findall(r"Paragraph (\d+)", truth)[0])


def partial(pred, key):
    best = 0
    for i in range(len(key)):
        for j in range(i + 1, len(key) + 1):
            if key[i:j] in pred:
                best = max(best, j - i)
    return best / len(key)


# --- comparison ---
checked = collections.Counter()


def same(name, ours, theirs, *inputs):
    checked[name] += 1
    if ours != theirs:
        sys.exit(f"{name}: ours {ours!r}, reference {theirs!r} for {inputs!r}")


def assigned(c):
    return unicodedata.category(chr(c)) != "Cn"


def check_characters():
    """Every code point that this Python's Unicode version assigns, surrogates aside."""
    for c in range(0x110000):
        if not assigned(c) or 0xD800 <= c < 0xE000:
            continue
        ch = chr(c)
        same("isspace", lib.ucp_is_space(c), ch.isspace(), hex(c))
        same("word", lib.ucp_is_word(c), bool(re.match(r"\w", ch)), hex(c))
        same("decimal", lib.ucp_is_decimal(c), bool(re.match(r"\d", ch)), hex(c))
        for text in (ch, "a" + ch + "\u03a3", "a\u03a3" + ch, "a\u03a3" + ch + "b", ch + "\u03a3"):
            same("lower", task_lib.lower(lib, text), text.lower(), hex(c), text)


WORDS = ["a", "an", "the", "The", "cat", "sat", "mat.", "U.S.A.", "1,234", "it's", "na\u00efve", "\u0391\u03a3", "\u0130x", "a\u0301",
         "\u4f60\u597d", "x", "y", "Paragraph", "12", "05", "\u0663\u0664", "'", "\u201cthe\u201d", "a_b", "\U0001f600", ".", "3.5",
         "\u00df", "Stra\u00dfe", "\u1e9e", "\u00aa", "\u2160", "the\u200d"]
SPACES = [" ", " ", " ", "  ", "\n", "\t", "\u00a0", "\u2003", ". ", ".", "\u001f", "", "\u3000", "\u0085"]


def text(rng, n):
    if rng.random() < 0.15:
        return "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0x80, 0x500), rng.randrange(0x500, 0xD800),
                                       rng.randrange(0xE000, 0x10FFFF)])) for _ in range(rng.randrange(n + 1)))
    return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randrange(n + 1)))


def usable(*texts):
    return all(assigned(ord(c)) for t in texts for c in t)


def check_rouge(rng, pred, truth):
    deep = C.c_bool()
    f = lib.metric_rouge_l(U(pred), U(truth), C.byref(deep))
    same("rouge_l", (f, deep.value), rouge_l(pred, truth), pred, truth)


def check_texts(rng):
    pred, truth = text(rng, 12), text(rng, 10)
    if rng.random() < 0.3:
        truth = pred[rng.randrange(len(pred) + 1):]
    if not usable(pred, truth):
        return
    same("qa_f1", lib.metric_qa_f1(U(pred), U(truth)), qa_f1(pred, truth), pred, truth)
    same("qa_exact", lib.metric_qa_exact(U(pred), U(truth)), float(normalise(pred) == normalise(truth)), pred, truth)
    same("contains", lib.metric_contains(U(pred), U(truth)), contains(pred, truth), pred, truth)
    same("count", lib.metric_count(U(pred), U(truth)), share(pred, truth), pred, truth)
    if truth:
        same("partial", lib.metric_partial_match(U(pred), U(truth)), partial(pred, truth), pred, truth)
    check_rouge(rng, pred, truth)


def check_numbers(rng):
    pred = "".join(rng.choice(["Paragraph ", "1", "2", "12", "05", " ", ",", "\u0661"]) for _ in range(rng.randrange(8)))
    truth = "Paragraph " + rng.choice(["1", "2", "12", "05"])
    same("retrieval", lib.metric_retrieval(U(pred), U(truth)), retrieval(pred, truth), pred, truth)


def check_classes(rng):
    names = ["".join(rng.choice("abc ") for _ in range(rng.randrange(1, 4))) for _ in range(rng.randrange(1, 8))]
    names += rng.sample(names, rng.randrange(len(names)))
    truth = rng.choice(names + ["".join(rng.choice("abc ") for _ in range(6))])
    pred = "".join(rng.choice("abc ") for _ in range(rng.randrange(14)))
    keep = [U(n) for n in names]
    ours = lib.metric_classification(U(pred), U(truth), (task_lib.Utext * len(keep))(*keep), len(keep))
    same("classification", ours, classification(pred, truth, names), pred, truth, names)


def check_code(rng):
    alphabet = rng.choice(["ab", "abc", "abcdefghij (){};=", "int x = foo(bar);\u00e9\U0001f600"])
    size = rng.choice([8, 40, 260, 600])
    b = "".join(rng.choice(alphabet) for _ in range(rng.randrange(size)))
    a = list(b) if rng.random() < 0.6 else [rng.choice(alphabet) for _ in range(rng.randrange(size))]
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(a) + 1)
        a[at:at + rng.randrange(4)] = rng.choices(alphabet, k=rng.randrange(4))
    head = "".join(rng.choice(["\n", "# c\n", "// c\n", "```\n", " \n", ""]) for _ in range(2))
    a = head + "".join(a)
    same("code_sim", lib.metric_code_sim(U(a), U(b)), code_sim(a, b), a, b)
    same("code_sim_indel", lib.metric_code_sim_indel(U(a), U(b)), code_sim_indel(a, b), a, b)


def check_deep_rouge(rng):
    """Around the recursion limit: equal sentences need n moves, disjoint ones n + m - ..., mixtures something between."""
    n = rng.randrange(400, 1020)
    x = [rng.choice("pqrstuv") if rng.random() < 0.1 else f"w{i}" for i in range(n)]
    y = [w if rng.random() < 0.97 else rng.choice("pqrstuv") for w in x]
    if rng.random() < 0.3:
        y = y[:rng.randrange(1, 600)] or ["w"]
    check_rouge(rng, " ".join(y), " ".join(x))


def check_round(rng):
    v = rng.choice([rng.random() * 100, rng.randrange(200000) / 1000 + 0.005, 100 * rng.randrange(500) / rng.randrange(1, 500), rng.randrange(100) / 8])
    same("round2", lib.score_round2(v), round(v, 2), v)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    check_characters()
    for _ in range(rounds):
        for check in (check_texts, check_numbers, check_classes, check_code, check_round):
            check(rng)
    for _ in range(rounds // 200):
        check_deep_rouge(rng)
    edges = [(" ".join(["w"] * k), " ".join(["w"] * k)) for k in (984, 985, 986)]
    edges += [(" ".join(["w"] * k), "x") for k in (984, 985, 986)] + [("x", " ".join(["w"] * k)) for k in (984, 985, 986)]
    edges += [(" ".join(["w"] * 3000), " ".join(["w"] * k)) for k in (5, 985, 986)]
    for pred, truth in edges:
        check_rouge(rng, pred, truth)
    print("all equal:", dict(checked))


if __name__ == "__main__":
    main()
