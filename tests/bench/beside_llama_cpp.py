"""kvsweep beside llama.cpp: the same weights in 16 bits, the same threads, the same lengths, in turn.

  beside_llama_cpp.py KVSWEEP MODEL.gguf [--threads N] [--rounds 3]      (pip install llama-cpp-python gguf numpy)

llama.cpp gets an f16 copy of the weights, kvsweep the same file with --dtype f16 and bf16 (both 16 bits wide).
Prints tokens per second of each round and the ratio of the medians; ratios hold within one run only.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import gguf
import numpy as np
from llama_cpp import Llama

PROMPT, CONTEXT, STEPS = 2048, 512, 48


def to_f16(src, dst):
    """A copy of a GGUF file with every matrix in f16."""
    r = gguf.GGUFReader(src)
    w = gguf.GGUFWriter(dst, r.get_field("general.architecture").contents())
    for f in r.fields.values():
        if f.name.startswith("GGUF.") or f.name == "general.architecture":
            continue
        sub = f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        value = 1 if f.name == "general.file_type" else f.contents()
        w.add_key_value(f.name, value, f.types[0], sub)
    for t in r.tensors:
        x = gguf.dequantize(t.data, t.tensor_type).astype(np.float32)
        w.add_tensor(t.name, x if x.ndim == 1 else x.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def ours(kvsweep, model, dtype, threads, what, context):
    out = subprocess.run([kvsweep, "bench", what, "--model", model, "--dtype", dtype, "--context", str(context), "--json",
                          "--threads", str(threads)], check=True, capture_output=True, text=True).stdout
    rows = {r["name"]: r["value"] for r in json.loads(out)["rows"]}
    return next(v for n, v in rows.items() if n.startswith("prefill of" if what == "prefill" else "decode at") and "16 seq" not in n)


def theirs(llm, ids):
    llm.reset()
    t = time.perf_counter()
    llm.eval(ids[:PROMPT])
    prefill = PROMPT / (time.perf_counter() - t)
    llm.reset()
    llm.eval(ids[:CONTEXT])
    steps = []
    for i in range(STEPS):
        t = time.perf_counter()
        llm.eval([ids[CONTEXT + i]])
        steps.append(time.perf_counter() - t)
    return prefill, 1 / statistics.median(steps)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("kvsweep")
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--rounds", type=int, default=3)
    a = ap.parse_args()
    with tempfile.TemporaryDirectory() as d:
        f16 = os.path.join(d, "f16.gguf")
        to_f16(a.model, f16)
        llm = Llama(f16, n_ctx=PROMPT + 8, n_batch=512, n_ubatch=512, n_threads=a.threads, n_threads_batch=a.threads, verbose=False)
        ids = np.random.default_rng(1).integers(0, llm.n_vocab(), PROMPT + STEPS).tolist()
        theirs(llm, ids)
        rows = []
        for i in range(a.rounds):
            row = {"llama.cpp": theirs(llm, ids)}
            for dtype in ("bf16", "f16"):
                row[dtype] = tuple(ours(a.kvsweep, f16, dtype, a.threads, w, n) for w, n in (("prefill", PROMPT), ("decode", CONTEXT)))
            rows.append(row)
            print("round", i + 1, {k: f"{p:.0f} prefill, {q:.1f} decode tokens/s" for k, (p, q) in row.items()}, flush=True)
        med = {k: [statistics.median(r[k][j] for r in rows) for j in (0, 1)] for k in rows[0]}
        for dtype in ("bf16", "f16"):
            p, q = (med[dtype][j] / med["llama.cpp"][j] for j in (0, 1))
            print(f"kvsweep {dtype} over llama.cpp f16: prefill of {PROMPT} {p:.2f}, decode at {CONTEXT} {q:.2f}")


main()
