"""Writes fixtures/tiny: a random-weight llama (2 layers, grouped heads) with a byte-level tokenizer, for tests of the
farm that need a model but no sense. Usage: tiny_model.py OUT_DIR [HEAD_DIM]; fixtures/wide has heads of 64, the least
that the kernels for cards are made for."""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXT = """There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you
about the important information there. The pass key is 12345. Remember it. What is the pass key? The grass is green,
the sky is blue, the sun is yellow; people walk, talk, read and write about the weather and the time of the day."""

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator([TEXT], trainers.BpeTrainer(
    vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False))
tok.save(os.path.join(out, "tokenizer.json"))
vocab = tok.get_vocab_size()

d, ff, heads, kv, hd, layers = 64, 128, 4, 2, int(sys.argv[2]) if len(sys.argv) > 2 else 32, 2
torch.manual_seed(1)
w = {}


def put(name, *shape, scale):
    w[name] = (torch.randn(*shape) * scale).to(torch.bfloat16)


put("model.embed_tokens.weight", vocab, d, scale=1.0)
for i in range(layers):
    p = f"model.layers.{i}."
    put(p + "self_attn.q_proj.weight", heads * hd, d, scale=0.2)
    put(p + "self_attn.k_proj.weight", kv * hd, d, scale=0.2)
    put(p + "self_attn.v_proj.weight", kv * hd, d, scale=0.15)
    put(p + "self_attn.o_proj.weight", d, heads * hd, scale=0.15)
    put(p + "mlp.gate_proj.weight", ff, d, scale=0.15)
    put(p + "mlp.up_proj.weight", ff, d, scale=0.15)
    put(p + "mlp.down_proj.weight", d, ff, scale=0.15)
    w[p + "input_layernorm.weight"] = torch.ones(d, dtype=torch.bfloat16)
    w[p + "post_attention_layernorm.weight"] = torch.ones(d, dtype=torch.bfloat16)
w["model.norm.weight"] = torch.ones(d, dtype=torch.bfloat16)
save_file(w, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": d, "intermediate_size": ff,
          "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": hd,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 8192, "vocab_size": vocab,
          "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 0}
json.dump(config, open(os.path.join(out, "config.json"), "w"), indent=1)
