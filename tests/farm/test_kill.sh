#!/usr/bin/env bash
# Usage: test_kill.sh KVSWEEP H5SAME N [SEED]. kill -9 of a random rank at a random moment, N times; every resume on a random
# number of ranks; files end equal to an undisturbed one, without error records.
source "$(dirname "$0")/common.sh"
N=$3 RANDOM=${4:-$$}
[ -n "$MPIRUN" ] || die "no mpirun"
farm alone "$DIR/want.h5" || die "undisturbed run"

# Starts on 1, 2 or 4 ranks and kills one of them after a while; true if it finished before.
disturbed() {
    local n=$((1 << RANDOM % 3)) out=$1 pid ranks victim rc files_before
    files_before=$(ls "$out.journal" 2>/dev/null | wc -l)
    timeout -k 5 120 "$MPIRUN" -n $n "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" >"$DIR/log" 2>&1 &
    pid=$!
    if [ $((RANDOM % 4)) = 0 ]; then # any moment, the start included
        sleep "$(printf '0.%03d' $((RANDOM % 1000)))"
    else # while it computes and writes: this attempt's journal is there
        for _ in $(seq 100); do
            [ "$(ls "$out.journal" 2>/dev/null | wc -l)" -gt "$files_before" ] && break
            sleep 0.05
        done
        sleep "$((RANDOM % 2)).$((RANDOM % 10))"
    fi
    # timeout -> mpirun -> ranks: all of them ours
    ranks=$(for m in $(ps -o pid= --ppid $pid); do ps -o pid= --ppid "$m"; done)
    victim=$(echo $ranks | tr ' ' '\n' | sed -n "$((1 + RANDOM % n))p")
    [ -n "$victim" ] && kill -9 "$victim" 2>/dev/null && kills=$((kills + 1))
    wait $pid
    rc=$?
    return $rc
}

kills=0 files=0 starts=0 attempts=0
while [ $kills -lt "$N" ]; do
    out=$DIR/got$files.h5
    watch_file "$out"
    until disturbed "$out"; do
        starts=$((starts + 1))
        [ $starts -lt $((20 * N)) ] || die "it never finishes"
        if [ $kills -ge "$N" ]; then
            farm 2 "$out" || die "the last resume"
            break
        fi
    done
    unwatch
    same "$DIR/want.h5" "$out"
    "$KVSWEEP" status "$out" | grep -q "96 of 96 units, 0 not ok, complete" || die "$("$KVSWEEP" status "$out")"
    attempts=$((attempts + $("$KVSWEEP" export "$out" --jsonl | grep -o '"attempt": [0-9]*' | sort -u | wc -l)))
    files=$((files + 1))
    rm -f "$out"
done
echo "passed: $kills kills, $files files, records of $attempts attempts"
