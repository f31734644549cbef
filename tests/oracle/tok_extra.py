"""Writes fixtures/tok/extra.json: ids and texts that transformers gives for a tokenizer whose tokens stand beside tokenizer.json.

    tok_extra.py fixtures/tiny/tokenizer.json OUT.json      (transformers 5.24)

Each case: {"files": {name: object}, "ids": of TEXT without post-processor, "text": of the ids without special tokens, "eos"}.
"""
import json
import os
import shutil
import sys
import tempfile

import transformers
from transformers import PreTrainedTokenizerFast

TEXT = "<|im_start|>user\nWhat colour is the <x> sky? <tool> it rains<|im_end|>\n<|endoftext|> the end [PAD] weather"


def token(content, special=True, **more):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": not special, "single_word": False, "special": special,
            **more}


CLASS = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
EOT = {"0": token("<|endoftext|>")}
CASES = [
    {},
    {"tokenizer_config.json": {**CLASS, "eos_token": "<|im_end|>"}},
    {"tokenizer_config.json": {**CLASS, "eos_token": "<|im_end|>",
                               "added_tokens_decoder": {**EOT, "401": token("<|im_end|>"), "400": token("<|im_start|>")}}},
    {"tokenizer_config.json": {**CLASS, "added_tokens_decoder": {**EOT, "400": token("<x>", False), "401": token("<tool>", False, lstrip=True)}}},
    {"tokenizer_config.json": {**CLASS, "added_tokens_decoder": {"0": token("<|endoftext|>", False)}}},
    {"tokenizer_config.json": {**CLASS, "pad_token": "[PAD]", "eos_token": {"__type": "AddedToken", **token("<|im_end|>", False)}}},
    {"tokenizer_config.json": {**CLASS, "extra_special_tokens": ["<x>", "<tool>"], "eos_token": "<|endoftext|>"}},
    {"tokenizer_config.json": {**CLASS, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
    {"tokenizer_config.json": {**CLASS, "eos_token": "\u0120weather"}},
    {"tokenizer_config.json": CLASS, "special_tokens_map.json": {"eos_token": "<|im_end|>", "pad_token": token("[PAD]")}},
    {"tokenizer_config.json": {**CLASS, "eos_token": "<|im_end|>"}, "added_tokens.json": {"<|im_end|>": 401, "<|im_start|>": 400}},
    {"tokenizer_config.json": {**CLASS, "added_tokens_decoder": EOT}, "special_tokens_map.json": {"eos_token": "<|im_end|>"}},
]


def one(files, tokenizer):
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(tokenizer, os.path.join(d, "tokenizer.json"))
        for name, content in files.items():
            with open(os.path.join(d, name), "w") as f:
                json.dump(content, f)
        t = PreTrainedTokenizerFast.from_pretrained(d)
        ids = t.encode(TEXT, add_special_tokens=False)
        text = t.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return {"files": files, "ids": ids, "text": text, "eos": -1 if t.eos_token_id is None else t.eos_token_id}


def main():
    cases = [one(files, sys.argv[1]) for files in CASES]
    with open(sys.argv[2], "w") as f:
        f.write('{"transformers": "%s", "text": %s, "cases": [\n' % (transformers.__version__, json.dumps(TEXT)))
        f.write(",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


main()
