"""Checks prompts, fields and scores on real LongBench files.

usage: task_longbench.py DATASET2PROMPT.json DIR      (DIR/NAME.jsonl as LongBench publishes them)
Answers are made from the right ones and from the context, by cutting, mixing and damaging them; the scores of prediction
files and of single answers must equal those of the reference's functions (task_metrics.py) and its rounding.
"""
import ctypes as C
import json
import os
import random
import sys
import tempfile

import task_fixtures as F
import task_lib

lib = task_lib.build()


class Scores(C.Structure):
    _fields_ = [("n", C.c_int), ("per_sample", C.POINTER(C.c_double)), ("score_raw", C.c_double), ("score", C.c_double),
                ("further", task_lib.Extra * 4), ("n_further", C.c_int)]


def answer(rng, row):
    gold = rng.choice(row["answers"])
    words = rng.choice([gold, row["context"][:3000]]).split(" ")
    at = rng.randrange(len(words))
    piece = " ".join(words[at:at + rng.randrange(1, 80)])
    return rng.choice([gold, gold + "\nmore text", "\n" + gold, gold.upper(), gold[:len(gold) // 2], piece, gold + " " + piece,
                       piece + " " + gold, "1 2 " + gold, "# c\n" + gold, ""])


def main():
    templates = json.load(open(sys.argv[1], encoding="utf-8"))
    rng, n = random.Random(3), 0
    for name in F.METRIC:
        path = os.path.join(sys.argv[2], name + ".jsonl")
        rows = [json.loads(line) for line in open(path, encoding="utf-8")]
        t = task_lib.Task(lib, "longbench/" + name, data=path)
        assert len(t) == len(rows)
        for i, r in enumerate(rows):
            e = t[i]
            assert e.prompt().decode() == templates[name].format(**r), (name, i)
            assert e.context.decode() == r["context"] and e.id.decode() == r["_id"] and e.n_words == r["length"]
            assert [g.decode() for g in e.gold[:e.n_gold]] == r["answers"]
            assert [c.decode() for c in e.classes[:e.n_classes]] == ((r["all_classes"] or []) if name == "trec" else [])
            n += 1
        preds = [{**{k: r[k] for k in ("answers", "all_classes", "length")}, "pred": answer(rng, r)} for r in rows * 3]
        want, have = F.scores(name, preds), Scores()
        for i, p in enumerate(preds):
            assert t.score(i % len(rows), p["pred"])[0] == want["per_sample"][i], (name, p)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
            f.writelines(json.dumps(p, ensure_ascii=bool(i % 2)) + "\n" for i, p in enumerate(preds))
            f.flush()
            assert lib.score_file(C.byref(have), lib.task_type_find(b"longbench/" + name.encode()), f.name.encode()) == 0
        assert (have.score, have.score_raw, list(have.per_sample[:have.n])) == (want["score"], want["score_raw"], want["per_sample"])
        further = {x.name.decode(): x.value for x in have.further[:have.n_further]}
        assert all(further[k] == v for k, v in want.items() if k not in ("score", "score_raw", "per_sample"))
        t.close()
        print(f"{name}: {len(rows)} prompts, {len(preds)} answers, score {have.score}")
    print("all equal:", n, "prompts")


if __name__ == "__main__":
    main()
