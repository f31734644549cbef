#!/usr/bin/env bash
# Usage: test_hang.sh KVSWEEP H5SAME HANG. A rank that hangs, leader or follower, stopped, spinning, or in a file system that does
# not answer, ends the job within --wait with one line and status 75; TERM and USR1 end a job while one hangs; resuming gives equal
# content. HANG: the library of hang.c.
source "$(dirname "$0")/common.sh"
HANG=$(realpath "$3") WAIT=6
MORE=(--set tasks.0.iterations=12) # bundles enough to be stopped between
farm alone "$DIR/want.h5" "${MORE[@]}" || die "undisturbed run"

# begin NAME RANKS [OPTION…]: starts it behind, until it computes; $ranks are the processes of the ranks, $pid is what to wait for.
begin() {
    local name=$1 n=$2
    shift 2
    out=$DIR/$name.h5 log=$DIR/$name.log
    if [ "$n" = alone ]; then
        env "${hook[@]}" "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" --wait $WAIT "${MORE[@]}" "$@" 2>"$log" &
        pid=$! ranks=$!
    else
        timeout -k 5 60 "$MPIRUN" -n "$n" env "${hook[@]}" "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" --wait $WAIT "${MORE[@]}" "$@" 2>"$log" &
        pid=$!
    fi
    for _ in $(seq 200); do # a bundle is in the journal: all ranks are at work
        sleep 0.05
        [ -n "$(find "$out.journal" -name '*.big' -size +0 2>/dev/null)" ] && break
    done
    [ "$n" = alone ] || ranks=$(ps -o pid= --ppid "$(ps -o pid= --ppid $pid | tr -d ' ')")
    [ -n "$(find "$out.journal" -name '*.big' -size +0 2>/dev/null)" ] || die "$name: it never computed: $(cat "$log")"
}
rank() { # the process of rank $1
    local r
    for r in $ranks; do
        tr '\0' '\n' <"/proc/$r/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && echo "$r"
    done
}
# ended NAME SECONDS LINE…: it ends within that time (and what mpirun needs to end the ranks) with status 75, and says each LINE once.
ended() {
    local name=$1 most=$2 line begin=$SECONDS rc
    shift 2
    wait $pid
    rc=$?
    [ $rc = 75 ] || die "$name: status $rc: $(cat "$log")"
    [ $((SECONDS - begin)) -le "$most" ] || die "$name: only after $((SECONDS - begin)) s: $(cat "$log")"
    for line in "$@"; do
        [ "$(grep -cE -- "$line" "$log")" = 1 ] || die "$name: not once '$line': $(cat "$log")"
    done
    [ "$(grep -c '^kvsweep' "$log")" = 1 ] || die "$name: not one line: $(cat "$log")"
    farm "${RESUME:-2}" "$out" "${MORE[@]}" || die "$name: resume"
    same "$DIR/want.h5" "$out"
}
kept='what is finished is kept, the same command goes on'
host=$(hostname)
hook=() # what the ranks, not mpirun, have in their environment

if [ -n "$MPIRUN" ]; then
    for r in 1 0; do # a follower, the leader: stopped as a whole
        begin stopped$r 3
        kill -STOP "$(rank $r)"
        ended stopped$r $((WAIT + 20)) "kvsweep.*: rank $r on $host has given no sign of life for [0-9]+ s.*; $kept"
    done
    for r in 1 0; do # the work spins, other threads live
        hook=("LD_PRELOAD=$HANG" "KVS_HANG=$r:expf:$DIR/spin$r")
        begin spin$r 2
        hook=()
        : >"$DIR/spin$r"
        bundle=' .*bundle [0-9a-f]{16}.*'
        [ $r = 0 ] || bundle="($bundle)?" # a follower may just be waiting for work
        ended spin$r $((WAIT + 20)) "kvsweep.*: rank $r on $host has made no progress for [0-9]+ s$bundle; $kept"
    done
    QUICK=$WAIT WAIT=30
    for s in TERM USR1; do # a stop is wished while a follower hangs: it counts long before the limit
        begin stop_$s 2
        kill -STOP "$(rank 1)"
        kill -$s "$(rank 0)"
        ended stop_$s $((WAIT - 1)) "kvsweep: stopped by SIG$s with [0-9]+ of 192 units done; go on with: kvsweep run"
    done
    WAIT=$QUICK
fi
RESUME=alone
hook=("LD_PRELOAD=$HANG" "KVS_HANG=0:fdatasync:$DIR/sync")
begin sync alone
hook=()
: >"$DIR/sync"
ended sync $((WAIT + 15)) "kvsweep: rank 0 on $host has made no progress for [0-9]+ s \(writes results\); $kept"
hook=("LD_PRELOAD=$HANG" "KVS_HANG=0:expf:$DIR/term")
begin term alone
hook=()
: >"$DIR/term"
sleep 0.3
kill -TERM $pid
ended term $((WAIT + 15)) "kvsweep: stopped by a signal; rank 0 on $host has made no progress for [0-9]+ s .*; $kept"
# A job that is suspended as a whole for longer than the limit goes on.
begin suspended alone --wait 2
kill -STOP $pid
sleep 4
kill -CONT $pid
wait $pid || die "suspended: status $?: $(cat "$log")"
same "$DIR/want.h5" "$out"
echo "passed: hang"
