"""Writes tests/fixtures/task: made-up inputs and what the reference's functions make of them.

usage: task_fixtures.py DATASET2PROMPT.json      (the reference's eval/longbench_utils/config/dataset2prompt.json)
vectors.json is not written here: it is the set of test vectors that came with the specification.
"""
import json
import os
import random
import sys

import task_metrics as M
import task_passkey as P

OUT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fixtures", "task")
QA = ["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa"]
ROUGE = ["gov_report", "qmsum", "multi_news", "samsum"]
METRIC = {**{d: "qa_f1" for d in QA}, **{d: "rouge_l" for d in ROUGE}, "trec": "classification",
          "passage_retrieval_en": "retrieval", "passage_count": "count", "lcc": "code_sim", "repobench-p": "code_sim"}


def write(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, indent=1)
        f.write("\n")


def lines(name, rows):
    with open(os.path.join(OUT, name), "w", encoding="utf-8", newline="") as f:
        f.writelines(json.dumps(r, ensure_ascii=True) + "\n" for r in rows)


def classes_score(pred, truth, classes):
    return M.classification(pred, truth, classes)


def score(metric, pred, truth, classes):
    if metric == "rouge_l":
        return M.rouge_l(pred, truth)[0]
    if metric == "classification":
        return classes_score(pred, truth, classes)
    if metric == "exact_match":
        return M.contains(pred, truth)
    return {"qa_f1": M.qa_f1, "retrieval": M.retrieval, "count": M.share, "code_sim": M.code_sim,
            "code_sim_indel": M.code_sim_indel, "partial_match": M.partial}[metric](pred, truth)


CASES = [("\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3 \u03a3", "\u03bf\u03b4\u03c5\u03c3\u03c3\u03b5\u03c5\u03c2 \u03c3"),
         ("\u0130stanbul", "i\u0307stanbul"), ("\u0130stanbul", "istanbul"), ("A\u03a3'B the\u00a0cat", "a\u03c3b cat"),
         ("a\u0301b an\u2003apple", "\u0301b apple"), ("the_end", "theend"), ("\u01c5 \u1e9e", "\u01c6 \u00df"), ("", ""), ("the", "")]


def metric_cases(rng):
    cases = []

    def add(metric, pred, truth, classes=None):
        cases.append({"metric": metric, "pred": pred, "truth": truth, "classes": classes,
                      "value": float(score(metric, pred, truth, classes))})
    for pred, truth in CASES:
        add("qa_f1", pred, truth)
    while len(cases) < 420:
        pred, truth = M.text(rng, 10), M.text(rng, 8)
        truth = pred[len(pred) // 3:] if rng.random() < 0.3 else truth
        if not truth or not M.usable(pred, truth) or "\0" in pred + truth:
            continue
        for metric in ("qa_f1", "rouge_l", "count", "code_sim", "code_sim_indel", "exact_match", "partial_match"):
            add(metric, pred, truth)
    for n in (984, 985, 986):
        add("rouge_l", " ".join(["w"] * n), " ".join(["w"] * n))
        add("rouge_l", " ".join(["w"] * n), "x")
        add("rouge_l", "x w", " ".join(["w"] * n + ["x"] * 2))
    for _ in range(30):
        alphabet = rng.choice(["ab", "abcdefghij (){};=", "int x\u00e9\U0001f600"])
        b = "".join(rng.choice(alphabet) for _ in range(rng.choice([30, 210, 320])))
        a = list(b)
        for _ in range(4):
            at = rng.randrange(len(a) + 1)
            a[at:at + rng.randrange(9)] = rng.choices(alphabet, k=rng.randrange(9))
        add("code_sim", "".join(a), b)
        add("code_sim_indel", "".join(a), b)
    for _ in range(30):
        names = ["".join(rng.choice("abc ") for _ in range(rng.randrange(1, 4))) for _ in range(5)]
        add("classification", "".join(rng.choice("abc ") for _ in range(10)), rng.choice(names), names)
        add("retrieval", rng.choice(["1", "12 1", "Paragraph 1,2", "\u0661 1"]), "Paragraph " + rng.choice(["1", "12"]))
    return cases


ROWS = [
    {"_id": "r1", "input": "What is {context}? And {input}?", "context": "Context with {input} and {context}\r\nand \u00fcber.\n",
     "answers": ["Paragraph 3", "the \u00fcber Paragraph 4"], "length": 7, "all_classes": ["x", "Paragraph"], "language": "en"},
    {"_id": "r2", "input": "", "context": "", "answers": ["Paragraph 12"], "length": 0, "all_classes": ["x"], "extra": [None, 1.5]},
    {"_id": "\u4e09", "input": "line\nline \"quoted\" \\ {0}", "context": "\U0001f600 {x} tail ", "answers": ["Paragraph 1"],
     "length": 2147483647, "all_classes": ["x", ""]},
]


def predictions(rng):
    rows, classes = [], ["Number of something", "Other number", "Number", "Date"]
    for i in range(24):
        answers = [M.text(rng, 6) or "x" for _ in range(1 + i % 3)] + ["Paragraph " + rng.choice(["1", "2"]), rng.choice(classes)]
        answers = [a if M.usable(a) else "caf\u00e9" for a in answers]
        pred = rng.choice(["", "\n\n"]) + rng.choice(answers) + rng.choice(["", "\n", " more\nand more", ", 1 and 2"])
        rows.append({"pred": pred, "answers": answers, "all_classes": classes, "length": i})
    rows[3]["pred"] = "nul \0 inside"
    return rows


def scores(task, rows):
    metric, name = METRIC.get(task, "exact_match"), task
    further = {"code_sim": "code_sim_indel", "exact_match": "partial_match"}.get(metric)
    per, more = [], []
    for r in rows:
        pred = r["pred"]
        if name in ("trec", "triviaqa", "samsum"):
            pred = pred.lstrip("\n").split("\n")[0]
        answers = [a for a in r["answers"] if metric != "retrieval" or a.startswith("Paragraph")]
        per.append(float(max([0.0] + [score(metric, pred, a, r["all_classes"]) for a in answers])))
        if further:
            more.append(float(max(score(further, pred, a, None) for a in answers)))
    total = 0.0
    for s in per:
        total += s
    out = {"score": round(100 * total / len(per), 2), "score_raw": total / len(per), "per_sample": per}
    if further:
        total = 0.0
        for s in more:
            total += s
        out[further] = total / len(more)
    return out


def main():
    templates = json.load(open(sys.argv[1], encoding="utf-8"))
    rng = random.Random(11)
    os.makedirs(os.path.join(OUT, "haystack"), exist_ok=True)
    write("metric_cases.json", metric_cases(rng))
    lines("longbench.jsonl", ROWS)
    write("longbench_prompts.json", {d: [templates[d].format(**r) for r in ROWS] for d in METRIC})
    files = {"b.txt": "Second file.\r\nIt has\rodd line ends\u00a0and blanks.  \n\n", "a.txt": "\n First file, no end", "c.txt": "",
             "Z.txt": "caf\u00e9 \u4f60\u597d " * 9 + "end\n"}
    for name, text in files.items():
        with open(os.path.join(OUT, "haystack", name), "w", encoding="utf-8", newline="") as f:
            f.write(text)
    prompts = P.prompts(P.read(os.path.join(OUT, "haystack")), 1, 60, 3, 4, 2, 7, 42)
    write("passkey_prompts.json", [{"length": p[0], "depth": p[1], "iteration": p[2], "key": p[3], "text": p[4]} for p in prompts])
    rows = predictions(rng)
    lines("preds.jsonl", rows)
    lines("preds_retrieval.jsonl", [{**r, "answers": [a for a in r["answers"] if a.startswith("Paragraph")]} for r in rows])
    write("preds_scores.json", {t: scores(t, rows) for t in [*METRIC, "passkey"]})


if __name__ == "__main__":
    main()
