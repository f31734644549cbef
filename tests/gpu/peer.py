#!/usr/bin/env python3
"""peer.py MODEL CONTEXT…: what the card can do (a large copy, a large product) and what transformers reaches on it with
the same weights and shapes (sdpa attention): seconds of a prompt, milliseconds of a decode step; medians."""
import statistics
import sys

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache


def timed(f, n):
    f()
    times = []
    for _ in range(n):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        torch.cuda.synchronize()
        times.append(a.elapsed_time(b) * 1e-3)
    return statistics.median(times)


def limits():
    x = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    s = timed(lambda: y.copy_(x), 10)
    print(f"copy {2 * x.numel() / s * 1e-9:.0f} GB/s (bytes read and written)")
    del x, y
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    print(f"product {2 * 8192**3 / timed(lambda: a @ b, 20) * 1e-12:.0f} TFLOP/s (bf16, 8192 cubed)")


@torch.inference_mode()
def peer(model, context):
    ids = torch.randint(0, model.config.vocab_size, (1, context), device="cuda")

    def prompt():
        cache = DynamicCache()
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    prefill = timed(prompt, 3)
    cache, one = prompt(), ids[:, :1]
    step = timed(lambda: model(one, past_key_values=cache, use_cache=True), 24)
    print(f"transformers at {context}: prefill {context / prefill:.0f} tokens/s, decode {1 / step:.1f} tokens/s")


limits()
net = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
for n in map(int, sys.argv[2:]):
    peer(net, n)
