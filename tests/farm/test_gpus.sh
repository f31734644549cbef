#!/usr/bin/env bash
# Usage: test_gpus.sh KVSWEEP H5SAME SHIM. Ranks on GPUs that are fibers (SHIM: the folder with the CUDA module's twin): weights
# are read once and handed on, by NCCL's twin and through the host; two ranks on one GPU need leave; a rank that dies or falls
# silent on the way ends the job with a line, in time.
source "$(dirname "$0")/common.sh"
[ -n "$MPIRUN" ] || die "no mpirun"
SHIM=$3
export LD_LIBRARY_PATH=$SHIM${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} KVSWEEP_DEBUG=1 KVS_SHIM_GPUS=4
unset CUDA_VISIBLE_DEVICES

# gpus N NAME [OPTION…]: the configuration on N ranks into $DIR/NAME.h5, what it says into $DIR/NAME.log.
gpus() {
    local n=$1 name=$2
    shift 2
    rm -f "$DIR/$name.h5"
    timeout -k 5 100 "$MPIRUN" -n "$n" "$KVSWEEP" run "$HERE/gpus.yaml" -o "$DIR/$name.h5" "$@" >"$DIR/$name.log" 2>&1
}
count() { grep -c -- "$1" "$DIR/$2.log"; }
# whole NAME READERS RECEIVERS WAY: the run of that name gave the content of one rank, with weights read and received so often.
whole() {
    same "$DIR/one.h5" "$DIR/$1.h5"
    [ "$(count 'weights read from the file' "$1")" = "$2" ] && [ "$(count 'weights received' "$1")" = "$3" ] || die "$1: not read by $2 and received by $3: $(cat "$DIR/$1.log")"
    [ "$3" = 0 ] || [ "$(count "weights .* bytes, $4)" "$1")" = $(($2 + $3)) ] || die "$1: not by $4: $(cat "$DIR/$1.log")"
}
# ended NAME SECONDS LINE: the run ends with an error in time and says LINE.
ended() {
    local name=$1 most=$2 line=$3 begin=$SECONDS
    shift 3
    gpus 2 "$name" "$@" && die "$name: no error"
    [ $((SECONDS - begin)) -le "$most" ] || die "$name: only after $((SECONDS - begin)) s"
    grep -qE -- "$line" "$DIR/$name.log" || die "$name: $(cat "$DIR/$name.log")"
}

timeout -k 5 100 "$KVSWEEP" run "$HERE/gpus.yaml" -o "$DIR/one.h5" >"$DIR/one.log" 2>&1 || die "one rank: $(cat "$DIR/one.log")"
whole one 1 0 -
gpus 2 two || die "two ranks: $(cat "$DIR/two.log")"
whole two 1 1 nccl
gpus 4 four || die "four ranks: $(cat "$DIR/four.log")"
whole four 1 3 nccl

# Two ranks on one GPU: as ordinals of one list, and each behind a list of its own.
KVS_SHIM_GPUS=1 gpus 2 refused && die "two ranks on one GPU were taken"
[ "$(count 'kvsweep: ranks 0 and 1 would share one GPU.*--share-gpu' refused)" = 1 ] || die "$(cat "$DIR/refused.log")"
KVS_SHIM_GPUS=1 gpus 2 shared --share-gpu || die "shared: $(cat "$DIR/shared.log")"
whole shared 1 1 host
see() { # two ranks, each with its own CUDA_VISIBLE_DEVICES, as Slurm sets them
    timeout -k 5 100 "$MPIRUN" -n 1 -x CUDA_VISIBLE_DEVICES="$2" "$KVSWEEP" run "$HERE/gpus.yaml" -o "$DIR/$1.h5" : \
        -n 1 -x CUDA_VISIBLE_DEVICES="$3" "$KVSWEEP" run "$HERE/gpus.yaml" -o "$DIR/$1.h5" >"$DIR/$1.log" 2>&1
}
see hidden 2 2 && die "two ranks that both see GPU 2 only were taken"
grep -q 'kvsweep: ranks 0 and 1 would share one GPU.*000000000002)' "$DIR/hidden.log" || die "$(cat "$DIR/hidden.log")"
see slurm 3 1 || die "one GPU each: $(cat "$DIR/slurm.log")"
whole slurm 1 1 nccl

# Without NCCL, with one that is too old, with one whose groups do not start: a line, and the way through the host.
mkdir "$DIR/bare" && ln -s "$SHIM/libkvs_cuda.so" "$DIR/bare/" || die "link"
LD_LIBRARY_PATH=$DIR/bare gpus 2 without || die "without NCCL: $(cat "$DIR/without.log")"
whole without 1 1 host
[ "$(count 'kvsweep: NCCL: not on every rank: .*; weights go through the host' without)" = 1 ] || die "$(cat "$DIR/without.log")"
KVS_SHIM_NCCL=1:old gpus 2 old || die "old NCCL: $(cat "$DIR/old.log")"
whole old 1 1 host
KVS_SHIM_NCCL=1:init gpus 2 init || die "NCCL does not start: $(cat "$DIR/init.log")"
whole init 1 1 host

# A rank dies, falls silent, reports a fault on the way.
KVS_SHIM_NCCL=1:die ended die 60 'signal 9|rank 0: model tiny: NCCL: broadcast of weights: another rank has given no sign of life' --wait 8
KVS_SHIM_NCCL=1:hang ended hang 60 'kvsweep.*: rank [01]: model tiny: NCCL: broadcast of weights: another rank has given no sign of life for 3 s' --wait 3
KVS_SHIM_NCCL=0:error ended error 60 'kvsweep.*: rank 0: model tiny: NCCL: broadcast of weights: unhandled system error' --wait 3
# The same run afterwards needs nothing but its command.
gpus 2 hang || die "after it hung: $(cat "$DIR/hang.log")"
whole hang 1 1 nccl
rm -f /dev/shm/kvsweep-nccl-shim-*
echo "passed: GPUs"
