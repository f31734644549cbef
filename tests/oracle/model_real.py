#!/usr/bin/env python3
"""What transformers computes in float32 for a real GGUF model (llama architecture), for comparison with ours.

    python tests/oracle/model_real.py MODEL.gguf TEXT.txt HF_FOLDER OUT.npz

Writes the model as safetensors with tokenizer to HF_FOLDER, and to OUT.npz: ids (the first 500 tokens of TEXT), logits
[500, vocab], greedy (64 tokens), greedy_logits [64, vocab] (of the step that each greedy token leads to). The weights
that transformers took from the file are held against the gguf package's own expansion first.
"""
import os
import sys

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

N_PROMPT, N_GREEDY = 500, 64


def load(path, hf):
    folder, file = os.path.split(os.path.abspath(path))
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    cfg = loaded.config.to_dict()
    cfg.pop("quantization_config", None)  # or it could not be saved as plain float32
    model = LlamaForCausalLM(LlamaConfig(**cfg)).float().eval()
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(hf)
    tok.save_pretrained(hf)
    return model, tok


def check_weights(model, path):
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    state = model.state_dict()

    def expand(name, heads=0):
        t = tensors[name]
        w = gguf.quants.dequantize(t.data, t.tensor_type)
        return w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape) if heads else w

    c = model.config
    for i in range(c.num_hidden_layers):
        a, b = f"model.layers.{i}.", f"blk.{i}."
        for hf, g, heads in (("self_attn.q_proj", "attn_q", c.num_attention_heads),
                             ("self_attn.k_proj", "attn_k", c.num_key_value_heads), ("self_attn.v_proj", "attn_v", 0),
                             ("self_attn.o_proj", "attn_output", 0), ("mlp.down_proj", "ffn_down", 0)):
            assert np.array_equal(expand(b + g + ".weight", heads), state[a + hf + ".weight"].numpy()), (i, hf)


def main(path, text, hf, out):
    model, tok = load(path, hf)
    check_weights(model, path)
    ids = tok(open(text, encoding="utf-8").read())["input_ids"][:N_PROMPT]
    assert len(ids) == N_PROMPT, "the text is too short"
    greedy, rows = [], []
    with torch.no_grad():
        r = model(torch.tensor([ids]), use_cache=True)
        logits, row = r.logits[0].numpy(), r.logits[0, -1]
        for _ in range(N_GREEDY):
            greedy.append(int(row.argmax()))
            r = model(torch.tensor([[greedy[-1]]]), past_key_values=r.past_key_values, use_cache=True)
            row = r.logits[0, -1]
            rows.append(row.numpy())
    np.savez(out, ids=np.array(ids, np.int32), greedy=np.array(greedy, np.int32), logits=logits,
             greedy_logits=np.stack(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
