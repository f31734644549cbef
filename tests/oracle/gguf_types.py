#!/usr/bin/env python3
"""What the gguf package makes of random blocks of every quantised type that is read.

    python tests/oracle/gguf_types.py > tests/fixtures/model/gguf/types.txt

One line a type: name, number of blocks, XXH3-128 of the float32 values. The blocks are bytes of splitmix64 that begins at the type's
number; of every half-precision scale the top exponent bit is cleared, so that no scale is infinite. tests/test_gguf.c makes the same ones.
"""
import gguf
import numpy as np
import xxhash

N = 100_000
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def splitmix64(seed, n):
    i = np.arange(1, n + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


for name, halves in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    words = (size + 7) // 8
    raw = splitmix64(int(kind), N * words).astype("<u8").view(np.uint8).reshape(N, words * 8)[:, :size].copy()
    for at in halves:
        raw[:, at + 1] &= 0xBF
    out = gguf.quants.dequantize(raw, kind).astype("<f4")
    assert out.size == N * values and np.isfinite(out).all()
    print(name, N, xxhash.xxh3_128_hexdigest(out.tobytes()))
