"""The real model against transformers in float32: logits at chosen positions and 64 greedy tokens.

  check_logits.py OUT.h5 FIXTURE.json [LIMIT]   (LIMIT: of differences, 1e-3; OUT.h5 from `kvsweep logits --all-positions --max-new 64`)
"""
import json
import sys

import h5py
import numpy as np

LIMIT = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-3
f = json.load(open(sys.argv[2]))
with h5py.File(sys.argv[1]) as h:
    ids, logits = h["ids"][:], h["logits"][:]
n, step = len(f["prompt"]), f["vocab_step"]
assert ids[:n].tolist() == f["prompt"], "the prompt came back changed"
worst = max(np.abs(logits[p][::step] - np.array(l)).max() for p, l in zip(f["position"], f["logits"]))
late = np.abs(logits[n + 62][::step] - np.array(f["last_new"])).max()
same = (logits[:n].argmax(1) == np.array(f["argmax"])).mean()
greedy = ids[n:].tolist() == f["greedy"]
print(f"max |difference| {worst:.2e} in the prompt, {late:.2e} after 63 new tokens; arg max equal at {100 * same:.1f} % "
      f"of positions; 64 greedy tokens {'equal' if greedy else 'DIFFER'}")
sys.exit(0 if worst <= LIMIT and late <= LIMIT and greedy and same > 0.99 else 1)
