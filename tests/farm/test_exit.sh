#!/usr/bin/env bash
# Usage: test_exit.sh KVSWEEP H5SAME. Exit status of every kind of end: 0; 75 when what is finished is kept and the same command goes
# on; 1, with one line, for what a repeat would not mend.
source "$(dirname "$0")/common.sh"
PIDS=()
trap 'kill -9 "${PIDS[@]}" 2>/dev/null; cleanup' EXIT

# expect STATUS LINE COMMAND…: that status, and one line that matches (none for status 0).
expect() {
    local want=$1 line=$2 rc
    shift 2
    "$@" >"$DIR/out" 2>"$DIR/err"
    rc=$?
    [ $rc = "$want" ] || die "$*: status $rc, not $want: $(cat "$DIR/err")"
    [ "$want" = 0 ] && return
    [ "$(grep -c '^kvsweep' "$DIR/err")" = 1 ] || die "$*: not one line: $(cat "$DIR/err")"
    grep -qE -- "$line" "$DIR/err" || die "$*: not '$line': $(cat "$DIR/err")"
}
run() { timeout -k 5 120 "$KVSWEEP" run -q "$HERE/farm.yaml" "$@"; }
# behind NAME [OPTION…]: starts a run behind, until it computes; $pid.
behind() {
    out=$DIR/$1.h5
    shift
    "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" "$@" 2>"$DIR/log" &
    pid=$!
    PIDS+=("$pid")
    for _ in $(seq 200); do
        sleep 0.05
        [ -n "$(find "$out.journal" -name '*.big' 2>/dev/null)" ] && return
    done
    die "it never computed: $(cat "$DIR/log")"
}

# ---- 0, and what a repeat would not mend ----
expect 0 '' run -o "$DIR/want.h5"
expect 0 '' run -o "$DIR/want.h5"
expect 1 "unknown command 'rnu'" "$KVSWEEP" rnu
expect 1 'which configuration' "$KVSWEEP" run
expect 1 'nosuch' "$KVSWEEP" run nosuch.yaml -o "$DIR/x.h5"
expect 1 'seeed' run -o "$DIR/x.h5" --set seeed=1
expect 1 'no/such/model' run -o "$DIR/x.h5" --set 'models=[{id: a, path: no/such/model}]'
expect 1 "wait: '0'" run -o "$DIR/x.h5" --wait 0
expect 1 'logits' run -o "$DIR/want.h5" --set logits.first=none
echo hello >"$DIR/text.h5"
expect 1 'not a readable HDF5 file' run -o "$DIR/text.h5"
grep -qx hello "$DIR/text.h5" || die "a file that holds no results was replaced"
expect 1 'no results at' "$KVSWEEP" pack "$DIR/none.h5"

# ---- links where the program writes: what they lead to stays as it is ----
echo precious >"$DIR/precious"
mkdir "$DIR/p.h5.journal" "$DIR/elsewhere"
cp "$DIR/precious" "$DIR/elsewhere/"
ln -s "$DIR/precious" "$DIR/p.h5.journal/lock"
expect 1 'journal/lock: it is a symbolic link' run -o "$DIR/p.h5"
rm -r "$DIR/p.h5.journal"
ln -s "$DIR/elsewhere" "$DIR/p.h5.journal"
expect 1 'is a symbolic link: the journal needs a folder of its own' run -o "$DIR/p.h5"
rm "$DIR/p.h5.journal"
ln -s "$DIR/elsewhere" "$DIR/p.h5.journal.done"
ln -s "$DIR/elsewhere" "$DIR/p.h5.crash"
expect 0 '' run -o "$DIR/p.h5"
same "$DIR/want.h5" "$DIR/p.h5"
grep -qx precious "$DIR/precious" && grep -qx precious "$DIR/elsewhere/precious" && [ "$(ls "$DIR/elsewhere")" = precious ] || die "a planted link was followed"

# ---- what a repeat goes on with ----
for s in INT TERM HUP USR1; do
    behind "sig$s"
    kill -$s $pid
    wait $pid
    rc=$?
    [ $rc = 75 ] || die "SIG$s: status $rc: $(cat "$DIR/log")"
    [ "$(grep -c . "$DIR/log")" = 1 ] && grep -q "stopped by SIG$s" "$DIR/log" || die "SIG$s: $(cat "$DIR/log")"
done
behind twice
kill -STOP $pid # both signals are there before it looks
kill -TERM $pid
kill -INT $pid
kill -CONT $pid
wait $pid
rc=$?
[ $rc = 75 ] || die "two signals: status $rc: $(cat "$DIR/log")"

behind first # two jobs, one file
expect 75 "another run is writing these results \(process $pid on $(hostname); lock file .*first.h5.journal/lock\)" run -o "$out"
wait $pid || die "the first of two runs: $(cat "$DIR/log")"
same "$DIR/want.h5" "$out"
expect 0 '' run -o "$out"

# a file system that takes no more
full() { (ulimit -f 40 && run -o "$DIR/full.h5"); }
expect 75 'cannot write .*File too large' full
expect 0 '' run -o "$DIR/full.h5"
same "$DIR/want.h5" "$DIR/full.h5"

# ---- under mpirun: rank 0's status ----
if [ -n "$MPIRUN" ]; then
    mpi() { timeout -k 5 120 "$MPIRUN" -n 2 "$KVSWEEP" run -q "$HERE/farm.yaml" "$@"; }
    expect 0 '' mpi -o "$DIR/mpi.h5"
    same "$DIR/want.h5" "$DIR/mpi.h5"
    expect 1 'seeed' mpi -o "$DIR/x.h5" --set seeed=1
    expect 1 'logits' mpi -o "$DIR/want.h5" --set logits.first=none
    full() { # MPI itself needs files, so the limit comes when it has started
        mpi -o "$DIR/full2.h5" &
        for _ in $(seq 400); do
            [ -n "$(find "$DIR/full2.h5.journal" -name '*.big' -size +0 2>/dev/null)" ] && break
            sleep 0.05
        done
        for r in $(pgrep -f "run -q $HERE/farm.yaml -o $DIR/full2.h5"); do
            [ "$(cat "/proc/$r/comm")" = kvsweep ] && prlimit --pid "$r" --fsize=1000
        done
        wait $!
    }
    expect 75 'cannot write .*File too large' full
    behind held
    expect 75 'another run is writing these results' mpi -o "$out"
    wait $pid || die "the first of two runs: $(cat "$DIR/log")"
    # Weights that ranks of a killed job shared go with the next start on the node, though that runs alone.
    cp -r "$HERE/../fixtures/tiny" "$DIR/tiny" # no other job has these
    own=(-o "$DIR/killed.h5" --set "models=[{id: tiny, path: '$DIR/tiny', template: none, max_len: 4096}]")
    timeout -k 5 120 "$MPIRUN" -n 2 "$KVSWEEP" run -q "$HERE/farm.yaml" "${own[@]}" 2>/dev/null &
    pid=$!
    for _ in $(seq 400); do
        [ -n "$(find "$DIR/killed.h5.journal" -name '*.big' -size +0 2>/dev/null)" ] && break
        sleep 0.05
    done
    m=$(ps -o pid= --ppid $pid | tr -d ' ')
    ranks=$(ps -o pid= --ppid "$m")
    left=$(for r in $ranks; do grep -o '/dev/shm/kvsweep-[0-9a-f-]*' "/proc/$r/maps"; done | sort -u)
    [ -e "$left" ] || die "two ranks of one node share no weights: $left"
    kill -9 $ranks "$m"
    wait $pid
    [ -e "$left" ] || die "a killed job takes its shared weights along: this test sees nothing"
    expect 0 '' run "${own[@]}"
    [ ! -e "$left" ] || die "$left outlives the next start"
    # Ranks of two builds: one byte more makes another program.
    cp "$KVSWEEP" "$DIR/other"
    echo >>"$DIR/other"
    two() {
        timeout -k 5 60 "$MPIRUN" -n 1 "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$DIR/two.h5" : -n 1 "$DIR/other" run -q "$HERE/farm.yaml" -o "$DIR/two.h5"
    }
    expect 1 'the ranks run different builds: rank 0 on .* has kvsweep .* \(file [0-9a-f]+\), rank 1 on .* has kvsweep .* \(file [0-9a-f]+\)' two
fi
echo "passed: exit status"
