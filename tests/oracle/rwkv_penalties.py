#!/usr/bin/env python3
"""Tokens that the package rwkv (0.8.25) chooses with its default penalties, from made-up logits.

    python tests/oracle/rwkv_penalties.py tests/fixtures/tok/world/rwkv_vocab_v20230424.txt > tests/fixtures/run/rwkv_penalties.json

The logits follow from step and id alone (row() below; test_penalty.c has the same), so that they need no room. The package's own loop
(utils.PIPELINE.generate) and tokenizer run; only the model is ours. The package draws among equally likely tokens: no two may tie here.
"""
import json
import sys

import numpy as np
import torch
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from rwkv.utils import PIPELINE, PIPELINE_ARGS

V, STEPS = 1024, 300
LIKELY = [33, 49, 50, 51, 66, 98, 99, 100, 261, 632]  # blank, 0, 1, 2, A, a, b, c, two newlines, "12"


def row(step):
    h = (np.arange(V, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(step) * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    h = (h ^ (h >> np.uint64(13))) & np.uint64(0xFFF)
    x = (h.astype(np.int64) * V + np.arange(V)).astype(np.float32) / np.float32(4 * 1024 * 1024)  # below 1, no two alike
    x[LIKELY] += np.float32(3)
    return torch.tensor(x)


class Model:
    step = 0

    def forward(self, tokens, state):
        self.step += 1
        return row(self.step - 1), state


class Pipeline(PIPELINE):
    chosen = []

    def __init__(self, vocabulary):
        self.model, self.tokenizer = Model(), TRIE_TOKENIZER(vocabulary)

    def sample_logits(self, logits, temperature=1.0, top_p=0.85, top_k=0):
        p = np.sort(torch.softmax(logits.float(), dim=-1).numpy())
        assert p[-1] > p[-2]
        token = super().sample_logits(logits, temperature, top_p, top_k)
        self.chosen.append(token)
        return token


pipeline = Pipeline(sys.argv[1])
text = pipeline.generate("a", token_count=STEPS, args=PIPELINE_ARGS(top_p=0))
plain = [int(row(i).argmax()) for i in range(STEPS)]
json.dump({"vocabulary": V, "likely": LIKELY, "tokens": pipeline.chosen, "differ": sum(a != b for a, b in zip(plain, pipeline.chosen)),
           "text": text}, sys.stdout)
print()
