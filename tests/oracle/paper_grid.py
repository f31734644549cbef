#!/usr/bin/env python3
"""Every pipeline and eval configuration of the reference (github.com/henryzhongsc/longctx_bench) for the paper's
models and Mamba-2, as one small fixture: tests/fixtures/paper/grid.json. Left out: Codestral, which is in no table, and the
file of Mamba-2 that no script names.

Usage: paper_grid.py GIT_DIR [COMMIT] > tests/fixtures/paper/grid.json      (GIT_DIR: a clone; default commit below)

Values are copied as they stand there; keys that no code reads, or that every file has alike, are left out. What
follows from the reference's code rather than from these files (H2O's late first layer on Mistral) is not in here."""
import json
import subprocess
import sys

COMMIT = "72204d0"
MODELS = {
    "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistralai/Mistral-7B-Instruct-v0.2",
    "lmsys/longchat-7b-v1.5-32k",
    "state-spaces/mamba-2.8b-hf",
    "havenhq/mamba-chat",
    "state-spaces/mamba2-2.7b",
    "BlinkDL/rwkv-5-world",
    "google/recurrentgemma-2b-it",
    "google/recurrentgemma-9b-it",
}
ORPHANS = {"baseline/paulgraham_passkey/mamba2-2.7b.json"}
PIPELINE = [
    "method", "model_name", "chat_template", "model_max_len", "rope_theta_factor", "k_bits", "v_bits", "group_size",
    "residual_length", "heavy_ratio", "recent_ratio", "compression_ratio", "init_ratio", "context_ratio", "block_size",
    "repr_topk", "exc_block_size", "cp_rate",
]
EVAL = [
    "dataset", "max_new_tokens", "background_len_min", "background_len_max", "n_background_lens", "depth_min",
    "depth_max", "n_depths", "depth_num_iterations", "retrieval_target_len", "eval_metrics",
]


def git(directory, *args):
    return subprocess.run(["git", "--git-dir", directory, *args], check=True, capture_output=True, text=True).stdout


def rows(directory, commit, folder, top, keys):
    for path in git(directory, "ls-tree", "-r", "--name-only", commit, folder).split():
        if not path.endswith(".json"):
            continue
        values = json.loads(git(directory, "show", f"{commit}:{path}"))[top]
        if "model_name" in values and (values["model_name"] not in MODELS or path[len(folder) + 1:] in ORPHANS):
            continue
        yield {"file": path[len(folder) + 1:], **{k: values[k] for k in keys if values.get(k) is not None}}


def main():
    directory, commit = sys.argv[1], (sys.argv[2:] or [COMMIT])[0]
    out = {
        "pipeline": list(rows(directory, commit, "config/pipeline_config", "pipeline_params", PIPELINE)),
        "eval": list(rows(directory, commit, "config/eval_config", "eval_params", EVAL)),
    }
    print("{\n" + ",\n".join(
        f' "{name}": [\n  ' + ",\n  ".join(json.dumps(r, separators=(",", ":")) for r in list_) + "\n ]"
        for name, list_ in out.items()) + "\n}")


main()
