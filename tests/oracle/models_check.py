#!/usr/bin/env python3
"""Do torch and safetensors read what tests/models/make_models.c wrote, and transformers its models?

    models_check.py OUT/models      prints a line per file; transformers' logits of its layouts must be finite
"""
import glob
import os
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

root = sys.argv[1]
for path in sorted(glob.glob(os.path.join(root, "*", "*"))):
    if path.endswith((".bin", ".pth")):
        w = torch.load(path, weights_only=True)
        same = {v.data_ptr() for v in w.values()}
        kind = type(w).__name__ + (f" _metadata {type(w._metadata).__name__}" if hasattr(w, "_metadata") else "")
    elif path.endswith(".safetensors"):
        w, kind = load_file(path), "safetensors"
        same = w
    else:
        continue
    assert all(torch.isfinite(v.float()).all() for v in w.values())
    print(os.path.relpath(path, root), kind, len(w), "tensors", len(same), "storages", sorted({str(v.dtype) for v in w.values()}))
    if path.endswith(".safetensors") and "llmlingua" not in path:
        m, info = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), dtype=torch.float32, output_loading_info=True)
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        logits = m(torch.arange(2, 60)[None]).logits.detach()
        assert torch.isfinite(logits).all()
        print("   ", type(m).__name__, "logits", float(logits.min()), "to", float(logits.max()))
