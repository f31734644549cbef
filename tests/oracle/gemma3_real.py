#!/usr/bin/env python3
"""What transformers computes in float32 for Gemma-3 270M from its GGUF file (configs/models/gemma-3-270m.yaml).

    python tests/oracle/gemma3_real.py MODEL.gguf IDS.json > tests/fixtures/real/gemma3_270m.json

IDS.json: token ids of a text, of which the first 1,500 are the prompt (kvsweep tokenize -w); three windows are 1,536 with the 64 tokens after
it. Logits of every vocab_step-th token at some positions (around the window of 512 too), the best token at all of them, 64 greedy tokens
and the logits of the last one but one. Needs gguf and accelerate.
"""
import json
import os
import sys

import torch
from transformers import AutoModelForCausalLM

N_PROMPT, N_GREEDY, STEP = 1500, 64, 2311
POSITIONS = [0, 1, 2, 4, 63, 299, 510, 511, 512, 513, 699, 1023, 1024, 1025, 1298, 1498, 1499]


def main(path, ids):
    folder, file = os.path.split(os.path.abspath(path))
    m = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    assert m.config.sliding_window == 512 and m.config.layer_types.count("full_attention") == 3
    prompt = json.load(open(ids))[:N_PROMPT]
    greedy, rows = [], []
    with torch.no_grad():
        r = m(torch.tensor([prompt]), use_cache=True)
        logits = r.logits[0]
        row = logits[-1]
        for _ in range(N_GREEDY):
            greedy.append(int(row.argmax()))
            r = m(torch.tensor([[greedy[-1]]]), past_key_values=r.past_key_values, use_cache=True)
            row = r.logits[0, -1]
            rows.append(row)
    short = lambda x: [round(float(v), 5) for v in x[::STEP]]  # noqa: E731
    json.dump({"made_by": "tests/oracle/gemma3_real.py (transformers, float32)", "prompt": prompt, "vocab_step": STEP,
               "position": POSITIONS, "logits": [short(logits[p]) for p in POSITIONS], "argmax": logits.argmax(1).tolist(),
               "greedy": greedy, "last_new": short(rows[N_GREEDY - 2])}, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main(*sys.argv[1:])
