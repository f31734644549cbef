#!/usr/bin/env bash
# Usage: test_status.sh KVSWEEP SHIM. On a GPU (fibers; SHIM is the folder with the CUDA module's twin) that is nearly full,
# and with a weight that is not a number: records with a status, and the sweep goes on. What fits alone is not out of memory.
set -u
KVSWEEP=$1 HERE=$(cd "$(dirname "$0")" && pwd)
DIR=$(mktemp -d "${TMPDIR:-/tmp}/kvsweep-status-XXXXXX")
trap 'rm -rf "$DIR"' EXIT
export LD_LIBRARY_PATH=$2${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
die() {
    echo "FAIL: $*" >&2
    exit 1
}

# sweep MODEL METHODS TOKENS…: its records as JSON lines in $DIR/out
sweep() {
    rm -f "$DIR/r.h5"
    cat >"$DIR/c.yaml" <<YAML
models: [{id: tiny, path: "$1", template: none, max_len: 4096}]
methods: $2
tasks: [{name: passkey, lengths: [$3], unit: tokens, depths: 1, iterations: 1, digits: 5, max_new: 2, haystack: synthetic}]
dtype: bf16
threads: 1
seed: 7
device: cuda
output: $DIR/r.h5
YAML
    "$KVSWEEP" run "$DIR/c.yaml" >"$DIR/log" 2>&1 || die "run: $(tail -3 "$DIR/log")"
    "$KVSWEEP" export "$DIR/r.h5" --jsonl >"$DIR/out" || die "export"
}
n_of() { grep -c "\"status\": \"$1\"" "$DIR/out"; }

# 512 MiB are the libraries'; the rest holds weights, workspace (5.3 MiB for prefill chunks of 2048 rows) and the shorter prompt.
KVS_SHIM_KIB=$((512 * 1024 + 6632)) sweep "$HERE/../fixtures/tiny" '[full, "kivi:bits=2"]' "200, 2600"
[ "$(n_of ok)" = 4 ] && [ "$(n_of oom)" = 4 ] || die "full GPU: $(cat "$DIR/out")"
grep '"status": "oom"' "$DIR/out" | grep -qE 'bytes wanted for a prompt of [0-9]+ tokens, the longest that would fit alone has about [1-9][0-9]*' ||
    die "no word of what would fit: $(cat "$DIR/out")"
fits=$(grep '"status": "oom"' "$DIR/out" | grep -oE 'alone has about [0-9]+' | grep -oE '[0-9]+' | head -1)
KVS_SHIM_KIB=$((512 * 1024 + 6632)) sweep "$HERE/../fixtures/tiny" '[full]' "$((fits - 60))"
[ "$(n_of ok)" -ge 1 ] || die "$fits tokens were to fit: $(cat "$DIR/out")"

# Two settings, two examples, a GPU that holds one sequence or two: together they give what each setting gives by itself.
answers() { grep -oE '"(unit|status|score|text)": ("[^"]*"|[^,]*)' "$DIR/out" | paste -sd ' ' | sed 's/"unit"/\n&/g' | sed 's/ *$//' | sort; }
crowded=0
for kib in 6260 6460; do
    export KVS_SHIM_KIB=$((512 * 1024 + kib))
    sweep "$HERE/../fixtures/tiny" '[full]' 700 && answers >"$DIR/one"
    sweep "$HERE/../fixtures/tiny" '["streaming:ratio=2"]' 700 && answers >>"$DIR/one"
    sweep "$HERE/../fixtures/tiny" '[full, "streaming:ratio=2"]' 700 && answers >"$DIR/both"
    sort -u "$DIR/one" | diff - <(sort -u "$DIR/both") || die "$kib KiB: what is computed together differs"
    [ "$(n_of ok)" = 4 ] && grep -q 'no memory for [1-3] of 4 sequences beside each other' "$DIR/log" && crowded=1
done
[ $crowded = 1 ] || die "no GPU was too small for four that fit alone: $(cat "$DIR/log")"
unset KVS_SHIM_KIB

mkdir "$DIR/nan"
cp "$HERE"/../fixtures/tiny/* "$DIR/nan"
printf '\377\177' | dd of="$DIR/nan/model.safetensors" bs=1 seek=$(($(stat -c %s "$DIR/nan/model.safetensors") - 2)) conv=notrunc status=none
sweep "$DIR/nan" '[full]' 100
[ "$(n_of nan)" = 2 ] && grep -q 'a logit was not finite after 0 new tokens' "$DIR/out" || die "not a number: $(cat "$DIR/out")"
echo "out of memory and not a number are records"
