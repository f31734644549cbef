"""Writes fixtures/model/rope_config.json: what transformers makes of the rotary keys of a config.json, or that it refuses them.

    rope_config.py OUT.json      (transformers 5.24)

Each case: {"keys": the keys beside the sizes, "raises": true} or {"keys": …, "rope_type", "rope_theta", "factor", …}.
"""
import json
import os
import sys
import tempfile

import transformers
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SIZES = dict(hidden_size=64, intermediate_size=96, vocab_size=300, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=4096)
LIN = {"rope_type": "linear", "factor": 4.0}
L3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
NONE = {"rope_type": "default", "rope_theta": 10000.0}
CASES = [
    {},
    {"rope_theta": 5e5},
    {"rope_scaling": None, "rope_theta": 5e5},
    {"rope_scaling": LIN},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 4.0}},
    {"rope_scaling": {"type": "default", "rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"factor": 4.0}},
    {"rope_scaling": {"rope_type": "linear"}},
    {"rope_scaling": {}},
    {"rope_scaling": {}, "rope_parameters": LIN},
    {"rope_parameters": LIN},
    {"rope_parameters": NONE},
    {"rope_parameters": {"rope_theta": 7e4}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}, "rope_theta": 5e5},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5},
    {"rope_parameters": NONE, "rope_scaling": LIN},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}, "rope_scaling": LIN},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}, "rope_scaling": LIN, "rope_theta": 5e5},
    {"rope_parameters": NONE, "rope_scaling": {**LIN, "rope_theta": 3e5}, "rope_theta": 5e5},
    {"rope_parameters": LIN, "rope_scaling": {"rope_type": "default"}},
    {"rope_parameters": {**L3, "rope_theta": 5e5}},
    {"rope_parameters": {**L3, "rope_theta": 5e5, "original_max_position_embeddings": 1024}},
    {"rope_scaling": {**L3, "original_max_position_embeddings": 1024}, "rope_theta": 5e5},
    {"rope_scaling": L3, "original_max_position_embeddings": 2048, "rope_theta": 5e5},
    {"rope_scaling": {**L3, "original_max_position_embeddings": 1024}, "original_max_position_embeddings": 2048},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}},
    {"rope_scaling": "linear"},
    {"rope_parameters": 4},
    {"rope_scaling": {"rope_type": None, "factor": 4.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 7e4, "partial_rotary_factor": 1.0}},
    {"rope_scaling": YARN},
    {"rope_scaling": {**YARN, "original_max_position_embeddings": 1024}, "rope_theta": 1e6},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    {"rope_scaling": {**YARN, "original_max_position_embeddings": 1024}, "original_max_position_embeddings": 512},
    {"rope_scaling": {**YARN, "truncate": False}},
    {"rope_scaling": {**YARN, "truncate": True, "beta_fast": 8, "beta_slow": 2}},
    {"rope_scaling": {**YARN, "beta_fast": None, "beta_slow": None}},
    {"rope_scaling": {**YARN, "attention_factor": 1.25, "mscale": 1.0, "mscale_all_dim": 0.5}},
    {"rope_scaling": {**YARN, "attention_factor": None, "mscale": 1.0, "mscale_all_dim": 0.5}},
    {"rope_scaling": {**YARN, "mscale": 0.7}},
    {"rope_scaling": {**YARN, "factor": 0.5}},
    {"rope_scaling": {**YARN, "factor": None, "original_max_position_embeddings": 512}},
    {"rope_scaling": {"rope_type": "yarn"}},
    {"rope_scaling": {**YARN, "original_max_position_embeddings": 40}},
]


def resolve(keys):
    with tempfile.TemporaryDirectory() as d:  # the constructor with keywords does not do the same as a file
        with open(os.path.join(d, "config.json"), "w") as f:
            json.dump({"model_type": "llama", **SIZES, **keys}, f)
        config = AutoConfig.from_pretrained(d)
    p = config.rope_parameters
    table = LlamaRotaryEmbedding(config)  # refuses kinds that it does not know
    out = {"rope_type": p["rope_type"], "rope_theta": float(p["rope_theta"])}
    for k in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"):
        if k in p and p["rope_type"] != "default" and (p["rope_type"] in ("llama3", "yarn") or k == "factor"):
            out[k] = p[k] if p[k] is not None else SIZES["max_position_embeddings"] / p["original_max_position_embeddings"]
    out["scale"] = float(table.attention_scaling)
    out["inv_freq"] = [float(x) for x in table.inv_freq]
    return out


def main():
    cases = []
    for keys in CASES:
        try:
            cases.append({"keys": keys, **resolve(keys)})
        except Exception as e:
            print(json.dumps(keys), "raises", type(e).__name__, str(e).split("\n")[0][:100])
            cases.append({"keys": keys, "raises": True})
    with open(sys.argv[1], "w") as f:
        f.write('{"transformers": "%s", "cases": [\n' % transformers.__version__)
        f.write(",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


main()
