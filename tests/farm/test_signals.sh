#!/usr/bin/env bash
# Usage: test_signals.sh KVSWEEP H5SAME. INT, TERM and USR1 stop a run in one line that says how to go on; the file opens, the
# same command finishes it. A crash leaves notes and does not stop the grid for ever.
source "$(dirname "$0")/common.sh"
farm alone "$DIR/want.h5" || die "undisturbed run"

# waits until the run into file $1 has begun to compute
begun() {
    for _ in $(seq 100); do
        sleep 0.05
        [ -d "$1.journal" ] && break
    done
    sleep 0.3
}

stop_alone() {
    local out=$DIR/$1.h5 pid rc
    "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" 2>"$DIR/err" &
    pid=$!
    begun "$out"
    kill -"$1" $pid
    wait $pid
    rc=$?
    [ $rc = 75 ] || die "$1: status $rc, $(cat "$DIR/err")"
    [ "$(wc -l <"$DIR/err")" = 1 ] || die "$1: not one line: $(cat "$DIR/err")"
    grep -q "stopped by SIG$1 .* go on with: kvsweep run -q $HERE/farm.yaml -o $out" "$DIR/err" || die "$1: $(cat "$DIR/err")"
    farm alone "$out" || die "$1: resume"
    same "$DIR/want.h5" "$out"
}
for s in INT TERM USR1; do stop_alone $s; done

# TERM beside USR1, as batch systems and a dying mpirun send it, gives up the bundle in flight in the same one line; so does USR1
# twice. The command that goes on can be pasted whatever is in it.
out="$DIR/it's.h5"
for s in "USR1 TERM" "USR1 USR1"; do
    rm -rf "$out" "$out".*
    "$KVSWEEP" run -q "$HERE/farm.yaml" --set tasks.0.iterations=600 -o "$out" 2>"$DIR/err" &
    pid=$!
    begun "$out"
    kill -STOP $pid # the first one is there when it goes on, the second comes right behind
    kill -"${s% *}" $pid
    kill -CONT $pid
    kill -"${s#* }" $pid
    wait $pid
    rc=$?
    [ $rc = 75 ] || die "$s: status $rc, $(cat "$DIR/err")"
    [ "$(wc -l <"$DIR/err")" = 1 ] || die "$s: not one line: $(cat "$DIR/err")"
    grep -q "^kvsweep: stopped by SIG" "$DIR/err" || die "$s: $(cat "$DIR/err")"
    grep -qF "it'\\''s.h5'" "$DIR/err" || die "$s: not quoted: $(cat "$DIR/err")"
done

if [ -n "$MPIRUN" ]; then # mpirun forwards USR1 to all ranks
    out=$DIR/mpi.h5
    timeout -k 5 120 "$MPIRUN" -n 2 "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" 2>"$DIR/err" &
    pid=$!
    begun "$out"
    kill -USR1 "$(ps -o pid= --ppid $pid | tr -d ' ')"
    wait $pid && die "USR1 under mpirun: status 0"
    grep -q "stopped by SIGUSR1" "$DIR/err" || die "USR1 under mpirun: $(cat "$DIR/err")"
    farm 2 "$out" || die "USR1 under mpirun: resume"
    same "$DIR/want.h5" "$out"
fi

# a crash in a bundle leaves a note about it; the next start computes it again, and the notes go when all is done
out=$DIR/crash.h5
"$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" 2>"$DIR/err" &
pid=$!
begun "$out"
kill -SEGV $pid
wait $pid
[ $? = 139 ] || die "SEGV: not status 139"
[ "$(cat "$out.crash"/* 2>/dev/null)" = "signal 11" ] || die "SEGV: no note"
farm alone "$out" || die "SEGV: resume"
same "$DIR/want.h5" "$out"
[ ! -e "$out.crash" ] || die "SEGV: the note stays"
echo "passed: signals"
