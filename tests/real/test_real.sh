#!/usr/bin/env bash
# The embedded default model, as a user meets it: test_real.sh KVSWEEP [LONGBENCH_DIR]
#   logits equal transformers' · the needle is found by `full` and lost by a small window · real LongBench rows run and are scored
set -eu
cd "$(dirname "$0")/.."
kvsweep=$1 data=${2:-}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python=python3
/usr/bin/python3 -c 'import h5py' 2>/dev/null && python=/usr/bin/python3 # Debian's h5py belongs to the system's own
model=smollm2-135m-instruct
"$kvsweep" fetch $model >/dev/null

$python -c 'import json, sys; json.dump(json.load(open(sys.argv[1]))["prompt"], sys.stdout)' fixtures/real/smollm2.json >"$dir/prompt.json"
"$kvsweep" logits $model --prompt "$dir/prompt.json" --max-new 64 --all-positions -o "$dir/logits.h5"
$python real/check_logits.py "$dir/logits.h5" fixtures/real/smollm2.json

cat >"$dir/needle.yaml" <<Y
models: [$model]
methods: [full, "kivi:bits=4", "streaming:ratio=8"]
tasks: [{name: passkey, lengths: [512], unit: tokens, depths: 5, iterations: 1, digits: 7, max_new: 16}]
Y
"$kvsweep" run -q "$dir/needle.yaml" -o "$dir/needle.h5"
"$kvsweep" report "$dir/needle.h5" -o "$dir/report" >/dev/null
$python - "$dir/report/settings.csv" <<'P'
import csv, sys
rows = {r["method"]: r for r in csv.DictReader(open(sys.argv[1]))}
score = {m: float(r["score"]) for m, r in rows.items()}
print("needle at 512 tokens:", score)
assert score["full"] >= 0.8, "the model does not find the needle with an uncompressed cache"
assert score["kivi"] >= 0.6, "4-bit KIVI lost the needle"
assert score["streaming"] <= 0.6, "a window of an eighth found needles that it cannot see"
assert float(rows["kivi"]["true_ratio"]) > 1.5 and float(rows["streaming"]["true_ratio"]) > 4
P

if [ ! -d "$data" ]; then
    echo "LongBench rows: skipped, no folder with them was given"
    exit 0
fi
{
    echo "models: [{id: $model-1k, path: \"\${cache}/SmolLM2-135M-Instruct.Q4_1.gguf\", template: chatml, max_len: 1000}]"
    echo "methods: [full]"
    echo "tasks:"
    for f in "$data"/*.jsonl; do
        echo "  - {name: longbench/$(basename "$f" .jsonl), data: $f, limit: 1, max_new: 16}"
    done
} >"$dir/longbench.yaml"
"$kvsweep" run -q "$dir/longbench.yaml" -o "$dir/longbench.h5"
"$kvsweep" export "$dir/longbench.h5" --jsonl >"$dir/longbench.jsonl"
$python - "$dir/longbench.jsonl" <<'P'
import json, sys
rows = [json.loads(l) for l in open(sys.argv[1])]
print(f"LongBench: {len(rows)} rows, all ok: {all(r['status'] == 'ok' for r in rows)}, longest prompt {max(r['n_prompt'] for r in rows)}")
assert len(rows) == 16 and all(r["status"] == "ok" for r in rows)
assert all(0 <= r["score"] <= 1 and r["n_prompt"] <= 1000 for r in rows)
P
