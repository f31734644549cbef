#!/usr/bin/env python3
"""peer.py SHAPE CONTEXT…: what the GPU can do (a large copy, a large product) and what transformers reaches on it with a
model of that shape (make_model.py; random weights, made on the GPU; sdpa attention, bf16): tokens per second of a prompt
and of decode steps; medians. Without a GPU everything is small and on the CPU: a test of this script."""
import os
import statistics
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from make_model import config_of

gpu = torch.cuda.is_available()
device = "cuda" if gpu else "cpu"


def timed(f, n):
    f()
    times = []
    for _ in range(n):
        if gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        f()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limits():
    x = torch.randint(0, 255, ((4 << 30) if gpu else (64 << 20),), dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    s = timed(lambda: y.copy_(x), 10)
    print(f"copy {2 * x.numel() / s * 1e-9:.0f} GB/s (bytes read and written)", flush=True)
    del x, y
    n = 8192 if gpu else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    print(f"product {2 * n**3 / timed(lambda: a @ b, 20) * 1e-12:.3g} TFLOP/s (bf16, {n} cubed)", flush=True)


def load(shape):
    entries = config_of(shape)
    config = AutoConfig.for_model(entries.pop("model_type"), **entries)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


@torch.inference_mode()
def peer(model, context):
    ids = torch.randint(0, model.config.vocab_size, (1, context), device=device)

    def prompt():
        cache = DynamicCache()
        model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    prefill = timed(prompt, 3)
    cache, one = prompt(), ids[:, :1]
    step = timed(lambda: model(one, past_key_values=cache, use_cache=True), 24)
    assert cache.get_seq_length() == context + 25
    print(f"transformers at {context}: prefill {context / prefill:.0f} tokens/s, decode {1 / step:.1f} tokens/s", flush=True)


if __name__ == "__main__":
    limits()
    net = load(sys.argv[1])
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16} and net.device.type == device
    for n in map(int, sys.argv[2:]):
        peer(net, n)
