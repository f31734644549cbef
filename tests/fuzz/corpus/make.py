#!/usr/bin/env python3
"""Writes the small seeds that are not text: python3 make.py, in this folder. Whole files of a few KB, because mutations
of long ones rarely meet what a parser decides by."""
import json
import struct

U32, F32, BOOL, STR, ARRAY, I32 = 4, 6, 7, 8, 9, 5


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARRAY:
        return struct.pack("<IQ", v[0], len(v[1])) + b"".join(value(v[0], x) for x in v[1])
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], v)


def gguf(path, keys, tensors):
    """keys: [(name, kind, value)]; tensors: [(name, sizes, ggml type, bytes)]."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, v in keys:
        head += text(name) + struct.pack("<I", kind) + value(kind, v)
    data = b""
    for name, sizes, kind, b in tensors:
        head += text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        head += struct.pack("<IQ", kind, len(data))
        data += b + bytes(-len(b) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


def model(path, tokens, tokenizer):
    d, ff = 8, 16
    keys = [("general.architecture", STR, "llama"), ("general.name", STR, "Small"), ("llama.block_count", U32, 1),
            ("llama.context_length", U32, 64), ("llama.embedding_length", U32, d), ("llama.feed_forward_length", U32, ff),
            ("llama.attention.head_count", U32, 2), ("llama.attention.head_count_kv", U32, 1),
            ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5), ("llama.rope.freq_base", F32, 10000.0),
            ("tokenizer.ggml.tokens", ARRAY, (STR, tokens)), ("tokenizer.ggml.bos_token_id", U32, 0),
            ("tokenizer.ggml.eos_token_id", U32, 1), ("tokenizer.ggml.add_bos_token", BOOL, True),
            ("tokenizer.chat_template", STR, "<|im_start|>user\n{{ x }}<|im_end|>\n<|im_start|>assistant\n")] + tokenizer
    shapes = {"token_embd": (d, len(tokens)), "output_norm": (d,), "blk.0.attn_norm": (d,), "blk.0.ffn_norm": (d,),
              "blk.0.attn_q": (d, d), "blk.0.attn_k": (d, d // 2), "blk.0.attn_v": (d, d // 2), "blk.0.attn_output": (d, d),
              "blk.0.ffn_gate": (d, ff), "blk.0.ffn_up": (d, ff), "blk.0.ffn_down": (ff, d)}
    tensors = []
    for name, sizes in shapes.items():
        n = 1
        for s in sizes:
            n *= s
        one = len(sizes) == 1  # norms are f32, the rest f16
        tensors.append((name + ".weight", sizes, 0 if one else 1, bytes(n * (4 if one else 2))))
    gguf(path, keys, tensors)


tokens = ["<s>", "</s>", "<unk>", "\u2581", "H", "e", "l", "o", "He", "ll", "<0x31>", "<|im_end|>"]
model("gguf/spm.gguf", tokens, [
    ("tokenizer.ggml.model", STR, "llama"), ("tokenizer.ggml.scores", ARRAY, (F32, [-float(i) for i in range(len(tokens))])),
    ("tokenizer.ggml.token_type", ARRAY, (I32, [3, 3, 2, 1, 1, 1, 1, 1, 1, 1, 6, 4])), ("tokenizer.ggml.unknown_token_id", U32, 2)])
tokens = ["<s>", "</s>", "H", "e", "l", "o", "w", "r", "d", "\u0120", "1", "He", "ll", "\u0120w"]
model("gguf/bpe.gguf", tokens, [
    ("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, "smollm"),
    ("tokenizer.ggml.token_type", ARRAY, (I32, [3, 3] + [1] * 12)),
    ("tokenizer.ggml.merges", ARRAY, (STR, ["H e", "l l", "\u0120 w"]))])

head, at, data = {"__metadata__": {"format": "pt"}}, 0, b""
for name, kind, size, shape in [("a", "F32", 4, [2, 3]), ("b", "BF16", 2, [4]), ("c", "F16", 2, []), ("d", "I64", 8, [1, 1])]:
    n = size
    for s in shape:
        n *= s
    head[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + n]}
    data += bytes(range(n))
head = json.dumps(head).encode()
head += b" " * (-len(head) % 8)
with open("safetensors/small.safetensors", "wb") as f:
    f.write(struct.pack("<Q", len(head)) + head + data)
