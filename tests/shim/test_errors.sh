#!/usr/bin/env bash
# Usage: test_errors.sh KVSWEEP SHIM. What a person sees of a GPU (fibers; SHIM is the folder with the CUDA module's twin) that
# cannot be used, and of a kernel that fails: one line with kernel, setting and example, and a grid that gets done all the same.
set -u
KVSWEEP=$1 HERE=$(cd "$(dirname "$0")" && pwd)
DIR=$(mktemp -d "${TMPDIR:-/tmp}/kvsweep-errors-XXXXXX")
trap 'rm -rf "$DIR"' EXIT
export LD_LIBRARY_PATH=$2${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
unset KVSWEEP_DEBUG
die() {
    echo "FAIL: $*" >&2
    exit 1
}
cat >"$DIR/c.yaml" <<YAML
models: [{id: tiny, path: "$HERE/../fixtures/wide", template: none, max_len: 4096}]
methods: [full, "kivi:bits=2", {name: streaming, ratio: 4}]
tasks: [{name: passkey, lengths: [150], unit: tokens, depths: 2, iterations: 1, digits: 5, max_new: 4, haystack: synthetic}]
dtype: bf16
threads: 1
seed: 7
output: $DIR/r.h5
YAML
# run FAULT [OPTION…]: with a GPU that has it (cuda_shim.cc), what it says in $DIR/log
run() {
    local fault=$1
    shift
    KVS_SHIM_FAULT=$fault "$KVSWEEP" run -q "$DIR/c.yaml" "$@" >"$DIR/log" 2>&1
}
# says FAULT DEVICE STATUS LINE: the run ends so and says this one line (a pattern of all of it), or nothing
says() {
    rm -rf "$DIR"/r.h5*
    run "$1" --device "$2"
    [ $? = "$3" ] || die "$1, $2: another status; $(cat "$DIR/log")"
    [ -z "$4" ] && [ ! -s "$DIR/log" ] && return
    [ "$(wc -l <"$DIR/log")" = 1 ] && grep -qxE "kvsweep: $4" "$DIR/log" || die "$1, $2: $(cat "$DIR/log")"
}
OLD='cuda: the NVIDIA driver knows CUDA up to 11\.4, this module needs 12\.6 \(cudaErrorInsufficientDriver\)'
CODE="cuda: device 0: this module holds no code for this GPU's architecture \(cudaErrorNoKernelImageForDevice\)"
says driver cuda 1 'cuda: no NVIDIA driver on this host \(cudaErrorInsufficientDriver\)'
says none cuda 1 'cuda: device 0: no CUDA-capable device is detected \(cudaErrorNoDevice\)'
says old cuda 1 "$OLD"
says code cuda 1 "$CODE"
# a GPU that is there and is not used is worth a word; none is not
says driver auto 0 ''
says none auto 0 ''
says old auto 0 "warning: $OLD: the CPU computes"
says code auto 0 "warning: $CODE: the CPU computes"

# In a pass that settings share, in a fork from it, in a pass of its own, in decoding: those and no others are named.
WHY='an illegal memory access was encountered \(cudaErrorIllegalAddress\)'
AT='example len=150,depth=0,it=0: cuda: (copy, |copying picks, )?up to kernel .*_kernel[^:]*'
says embed cuda 1 "task passkey: model tiny, settings full, kivi:bits=2, $AT: $WHY"
says quant cuda 1 "task passkey: model tiny, setting kivi:bits=2, $AT: $WHY"
says combine cuda 1 "task passkey: model tiny, setting streaming:keep=0.25, $AT: $WHY"
says chunk cuda 1 "task passkey: model tiny, settings full, kivi:bits=2, $AT: $WHY"
# the very kernel, where every launch is waited for
rm -rf "$DIR"/r.h5*
KVSWEEP_DEBUG=1 run quant --device cuda && die "no fault"
grep -qE 'setting kivi:bits=2, example len=150,depth=0,it=0: cuda: kernel quant_kernel: ' "$DIR/log" || die "$(tail -1 "$DIR/log")"

# Without graphs everything goes as with them.
for fault in none_of_these graph start; do
    rm -rf "$DIR"/r.h5*
    run $fault --device cuda || die "$fault: $(cat "$DIR/log")"
    "$KVSWEEP" export "$DIR/r.h5" --jsonl | sed -E 's/, "(rank|attempt|peak_bytes|s_[a-z]+)": [^,}]*//g' >"$DIR/$fault.out"
    cmp "$DIR/$fault.out" "$DIR/none_of_these.out" || die "$fault: other results"
done
[ "$(grep -c '"status": "ok"' "$DIR/start.out")" = 6 ] || die "$(cat "$DIR/start.out")"

# Started again and again it gets done: only what fails by itself is an error.
rm -rf "$DIR"/r.h5*
for i in 1 2 3 4 5 6 7 8 9 10; do
    run quant --device cuda && break
done
"$KVSWEEP" export "$DIR/r.h5" --jsonl >"$DIR/out" || die "export"
[ "$(grep -c '"status": "ok"' "$DIR/out")" = 4 ] || die "after $i starts: $(cat "$DIR/log" "$DIR/out")"
[ "$(grep -c '"status": "error".*twice the program ended while computing this unit alone: model tiny, setting kivi:bits=2, .*kernel quant_kernel' "$DIR/out")" = 2 ] ||
    die "$(cat "$DIR/out")"
echo "errors name kernel, setting and example"
