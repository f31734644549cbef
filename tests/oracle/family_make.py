#!/usr/bin/env python3
"""Small random-weight checkpoints of all families (of llama those that model_make.py has not), with what their reference implementations
compute in float32.

    python tests/oracle/family_make.py tests/fixtures/family [NAME …]

Every folder NAME gets a checkpoint in its published layout and oracle.bin: int32 n_prompt, n_greedy, n_vocab, n_rows;
int32 positions [n_rows]; int32 prompt ids, greedy ids; float32 logits [n_rows, n_vocab], top-2 gaps [n_greedy].
A file MAKERS[NAME] beside this one says how (family_*.py).
"""
import glob
import importlib.util
import os
import struct
import sys

import numpy as np
import torch

ROWS = [0, 1, 2, 4, 63, 299, 699]
N_GREEDY = 64


def write_oracle(path, logits_of, n_vocab, seed, n_prompt=700, rows=ROWS, n_greedy=N_GREEDY):
    """logits_of(ids [n]) -> float32 [n, n_vocab] of a whole pass."""
    ids = torch.randint(0, n_vocab, (n_prompt,), generator=torch.Generator().manual_seed(seed)).tolist()
    with torch.no_grad():
        logits = np.asarray(logits_of(ids), np.float32)
        seq, gaps = list(ids), []
        for _ in range(n_greedy):
            row = np.asarray(logits_of(seq)[-1], np.float32)
            top = np.sort(row)[::-1]
            gaps.append(top[0] - top[1])
            seq.append(int(row.argmax()))
    write(path, ids, seq, logits[rows], gaps, rows)


def write_steps(path, step, n_vocab, seed, n_prompt=700, rows=ROWS, n_greedy=N_GREEDY):
    """The same of a model whose prompt rows depend on what follows them: step(ids, at) -> float32 [n_vocab] of the last token of ids
    behind `at` tokens that it was given before (0: anew)."""
    ids = torch.randint(0, n_vocab, (n_prompt,), generator=torch.Generator().manual_seed(seed)).tolist()
    with torch.no_grad():
        logits = np.stack([step(ids[:row + 1], 0) for row in rows])
        seq, gaps, row = list(ids), [], step(ids, 0)
        for _ in range(n_greedy):
            top = np.sort(row)[::-1]
            gaps.append(top[0] - top[1])
            seq.append(int(row.argmax()))
            row = step(seq[-1:], len(seq) - 1)
    write(path, ids, seq, logits, gaps, rows)


def write(path, ids, seq, logits, gaps, rows):
    n_prompt, n_vocab, n_greedy = len(ids), logits.shape[1], len(gaps)
    with open(path, "wb") as f:
        f.write(struct.pack("<4i", n_prompt, n_greedy, n_vocab, len(rows)))
        f.write(np.asarray(rows, "<i4").tobytes() + np.asarray(seq, "<i4").tobytes())
        f.write(logits.astype("<f4").tobytes() + np.asarray(gaps, "<f4").tobytes())
    print(path, "logits", logits.min(), logits.max(), "least gap", min(gaps), flush=True)


def main():
    out, wanted = sys.argv[1], sys.argv[2:]
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    for path in sorted(glob.glob(os.path.join(here, "family_*.py"))):
        if os.path.basename(path) == "family_make.py":
            continue
        spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, make in module.MAKERS.items():
            if not wanted or name in wanted:
                os.makedirs(os.path.join(out, name), exist_ok=True)
                make(os.path.join(out, name))


if __name__ == "__main__":
    main()
