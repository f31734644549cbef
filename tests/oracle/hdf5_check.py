#!/usr/bin/env python3
"""Reads a results file the way users do (h5py, pandas if there) and checks every dataset against the schema:
columns, types, units, offsets; and against the expectation that h5make wrote (FILE.txt).
usage: hdf5_check.py FILE.h5"""
import json
import sys

import h5py
import numpy as np

I4, I8, U8, F4, F8, TEXT = "<i4", "<i8", "<u8", "<f4", "<f8", "text"
STATUS = ["ok", "oom", "too_long", "nan", "error"]
STOP = ["eos", "max_new", "newline"]
BUDGET = ["n_init", "n_local", "topk", "kept_tokens", "kept_bits", "true_ratio"]
PLACE = ["device", "host"]
TABLES = {
    "settings": [(n, TEXT) for n in ("id model model_hash weights_xxh3 model_path weight_type family template "
                                     "stop_ids").split()]
    + [("max_len", I8)]
    + [(n, TEXT) for n in "prompt_method method params overrides protocol refused dtype cache_dtype".split()]
    + [("nominal_ratio", F8)],
    "tasks": [("id", TEXT), ("params", TEXT), ("metric", TEXT), ("category", TEXT), ("n_examples", I4),
              ("source_sha256", TEXT)],
    "examples": [("task", I4), ("example", I4), ("id", TEXT), ("n_words", I4), ("length", F8), ("depth", F8),
                 ("iteration", I4), ("gold_at", I8), ("gold_len", I8)],
    "records": [("unit_hi", U8), ("unit_lo", U8), ("bundle", U8), ("setting", I4), ("task", I4), ("example", I4),
                ("status", STATUS), ("stop", STOP), ("score", F8), ("n_prompt", I4),
                ("n_context", I4), ("n_question", I4), ("n_new", I4), ("truncated", I4), ("prompt_hash", U8),
                ("kv_bytes", U8), ("kv_bytes_alone", U8), ("kv_bytes_full", U8), ("context_bytes", U8),
                ("context_bytes_full", U8), ("peak_bytes", U8), ("want_bytes", U8), ("kept_min", I4),
                ("kept_max", I4), ("rank", I4), ("attempt", I4),
                ("text_at", I8), ("text_len", I8), ("error_at", I8), ("error_len", I8), ("token_at", I8),
                ("logit_at", I8), ("first_at", I8)],
    "metrics": [("record", I8), ("name", None), ("value", F8)],
    "budgets": [("record", I8), ("name", BUDGET), ("value", F8)],
    "ledger": [("record", I8), ("kind", None), ("place", PLACE), ("bytes", U8)],
    "timing": [("setting", I4), ("task", I4), ("example", I4), ("repeat", I4), ("s_prefill", F8),
               ("s_compress", F8), ("s_decode", F8), ("s_prefill_limit", F8), ("s_decode_limit", F8), ("n_prompt", I4), ("n_new", I4),
               ("peak_bytes", U8)],
    "fidelity": [("record", I8), ("step", I4), ("kl", F4), ("top1", F4), ("gold_logprob", F4)],
}
ROOT = {"schema_version": int, "kvsweep_version": str, "git_commit": str, "config_yaml": str, "created": str,
        "host": str, "device": str, "isa": str, "driver": str, "libraries": str, "n_ranks": int, "threads": int,
        "mode": str, "plan": str, "n_units": int, "packed": int, "logits_first": int, "logits_topk": int}


def fail(text):
    sys.exit(f"hdf5_check: {text}")


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def check_table(f, name, columns):
    if name not in f:
        fail(f"/{name} is missing")
    d = f[name]
    if list(d.dtype.names) != [c for c, _ in columns]:
        fail(f"/{name} has columns {d.dtype.names}")
    for attr in ("units", "long_name"):
        values = [text(u) for u in d.attrs[attr]]
        if len(values) != len(columns) or not all(isinstance(u, str) and u for u in values):
            fail(f"/{name} {attr}: {values}")
    if not d.maxshape == (None,) or not d.chunks:
        fail(f"/{name} is not growing")
    for column, want in columns:
        t = d.dtype[column]
        if want == TEXT:
            info = h5py.check_string_dtype(t)
            if info is None or info.encoding != "utf-8" or info.length is not None:
                fail(f"/{name}.{column} is {t}, not variable-length UTF-8")
        elif isinstance(want, str):
            if t.str != want or h5py.check_enum_dtype(t):
                fail(f"/{name}.{column} is {t}, not {want}")
        else:
            names = h5py.check_enum_dtype(t)
            if t.base.str != I4 or not names:
                fail(f"/{name}.{column} is {t}, not an enum")
            if want and [n for n, _ in sorted(names.items(), key=lambda x: x[1])] != want:
                fail(f"/{name}.{column} has names {names}")
    return d[:]


def check_array(d, dtype, columns=None):
    if d.dtype.str != dtype or not isinstance(text(d.attrs["units"]), str) or not text(d.attrs["long_name"]):
        fail(f"{d.name} is {d.dtype}, units {d.attrs.get('units')}")
    if columns and d.shape[1] != columns:
        fail(f"{d.name} has shape {d.shape}")
    return d[:]


def load(path):
    f = h5py.File(path, "r")
    for name, kind in ROOT.items():
        value = f.attrs[name]
        if not isinstance(text(value), str) if kind is str else int(value) != value:
            fail(f"attribute {name} is {value!r}")
    if f.attrs["schema_version"] != 2 or "Ω" not in text(f.attrs["config_yaml"]):
        fail("root attributes")
    t = {name: check_table(f, name, columns) for name, columns in TABLES.items()}
    t["text"] = check_array(f["text"], "|u1").tobytes()
    t["tokens"] = check_array(f["tokens"], "<i4")
    models = {text(s["model"]): text(s["model_hash"]) for s in t["settings"]}
    t["logits"] = {}
    for name, g in f["logits"].items():
        if models.get(text(g.attrs["model"])) != text(g.attrs["model_hash"]):
            fail(f"/logits/{name} belongs to no model")
        t["logits"][text(g.attrs["model"])] = {
            "first": check_array(g["first"], "<f2", 96), "topk_id": check_array(g["topk_id"], "<i4", 8),
            "topk_logit": check_array(g["topk_logit"], "<f2", 8), "logsumexp": check_array(g["logsumexp"], "<f4")}
    if sorted(f["logits"]) != ["tiny_one", "tiny_one_2"]:
        fail(f"/logits has {sorted(f['logits'])}")
    return f, t


def check_units(f, t, lines):
    r = t["records"]
    order = [(int(a), int(b)) for a, b in zip(r["unit_hi"], r["unit_lo"])]
    if order != sorted(order) or len(set(order)) != len(order) or len(r) != len(lines):
        fail("records are not ordered, not unique or not complete")
    want = {w[0]: w[1:] for w in lines}
    status = {v: k for k, v in h5py.check_enum_dtype(r.dtype["status"]).items()}
    stop = {v: k for k, v in h5py.check_enum_dtype(r.dtype["stop"]).items()}
    first_rows = {m: np.sort(np.append([x["first_at"] for x in r if x["first_at"] >= 0
                                        and text(t["settings"][x["setting"]]["model"]) == m], len(g["first"])))
                  for m, g in t["logits"].items()}
    for i, x in enumerate(r):
        w = want[f"{x['unit_hi']:016x}{x['unit_lo']:016x}"]
        got = [status[x["status"]], stop[x["stop"]]]
        same = got == w[:2] and (float(w[2]) == x["score"] or (np.isnan(x["score"]) and w[0] != "ok"))
        counts = [int((t[n]["record"] == i).sum()) for n in ("metrics", "budgets", "ledger", "fidelity")]
        same = same and int(w[3]) == x["n_new"] and counts == [int(v) for v in w[5:9]]
        answer = t["text"][x["text_at"]:x["text_at"] + x["text_len"]] if x["text_at"] >= 0 else b""
        answer.decode()
        same = same and int(w[4]) == len(answer) and (x["token_at"] >= 0) == (x["n_new"] > 0)
        g = t["logits"][text(t["settings"][x["setting"]]["model"])]
        sums = [0.0, 0.0, 0.0]
        if x["first_at"] >= 0:
            ends = first_rows[text(t["settings"][x["setting"]]["model"])]
            end = ends[np.searchsorted(ends, x["first_at"], "right")]
            sums[0] = float(g["first"][x["first_at"]:end].astype("f8").sum())
        if x["logit_at"] >= 0:
            at = slice(x["logit_at"], x["logit_at"] + x["n_new"])
            sums[1] = float(g["topk_logit"][at].astype("f8").sum() + g["topk_id"][at].sum())
            sums[2] = float(g["logsumexp"][at].astype("f8").sum())
        if not same or not np.allclose(sums, [float(v) for v in w[9:]], rtol=1e-12, atol=1e-9):
            fail(f"record {i} is {x}, sums {sums}, wanted {w}")
    for e in t["examples"]:
        gold = json.loads(t["text"][e["gold_at"]:e["gold_at"] + e["gold_len"]])
        if gold != (["yes", "yés"] if e["task"] else ["1234567"]) or np.isnan(e["depth"]) != (e["task"] == 1):
            fail(f"example {e} has answers {gold}")


def check_pandas(f, t):
    try:
        import pandas
    except ImportError:
        return "no pandas here"
    for name in TABLES:
        frame = pandas.DataFrame(f[name][:])
        if list(frame.columns) != list(f[name].dtype.names) or len(frame) != len(f[name]):
            fail(f"pandas.DataFrame of /{name}")
    frame = pandas.DataFrame(h5py.File(f.filename)["records"][:])
    mean = frame[frame.status == 0].groupby("setting").score.mean()
    for s, value in mean.items():
        rows = t["records"][(t["records"]["setting"] == s) & (t["records"]["status"] == 0)]
        if not np.isclose(value, rows["score"].mean()):
            fail("pandas means")
    return f"pandas {pandas.__version__}"


def main():
    f, t = load(sys.argv[1])
    lines = [line.split() for line in open(sys.argv[1] + ".txt")]
    check_units(f, t, lines)
    print(f"{len(lines)} records, h5py {h5py.__version__}, {check_pandas(f, t)}: ok")


main()
