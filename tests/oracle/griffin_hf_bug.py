#!/usr/bin/env python3
"""The checkpoint of fixtures/family/griffin as transformers 4.40.2 computes it (attention_mask: hf_bug).

    pip install --target SITE --no-deps transformers==4.40.2 tokenizers==0.19.1 huggingface_hub==0.23.4
    PYTHONPATH=SITE python tests/oracle/griffin_hf_bug.py tests/fixtures/family

A prompt's rows depend on its length, so each length is a pass of its own; prompts of one token raise there."""
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file

from family_make import write_steps

ROWS = [1, 2, 4, 22, 23, 24, 63, 99, 299, 699]


def main(folder):
    assert transformers.__version__ == "4.40.2"
    keys = json.load(open(os.path.join(folder, "griffin/config.json")))
    cfg = transformers.RecurrentGemmaConfig(**{k: v for k, v in keys.items() if k not in ("model_type", "torch_dtype")})
    m = transformers.RecurrentGemmaForCausalLM(cfg).eval()
    m.load_state_dict(load_file(os.path.join(folder, "griffin/model.safetensors")), strict=False)
    assert m.lm_head.weight is m.model.embed_tokens.weight

    def step(ids, at):
        return m(torch.tensor([ids]), cache_position=torch.arange(at, at + len(ids)), use_cache=True).logits[0, -1].numpy()
    os.makedirs(os.path.join(folder, "griffin_hf_bug"), exist_ok=True)
    write_steps(os.path.join(folder, "griffin_hf_bug/oracle.bin"), step, keys["vocab_size"], 7, rows=ROWS)


main(sys.argv[1])
