#!/usr/bin/env bash
# Usage: campaign.sh KVSWEEP H5SAME FAULT.so FLIP N_FAULT N_FLIP [SEED]. What a run must survive, and what a reader must notice:
# N_FAULT runs are ended or disturbed (kill, stop, full disk, torn write, failing write, sync or rename) at a random place and
# go on by the same command; N_FLIP single bits are changed in a results file, a journal and its logits. Prints a table;
# passes if no unit is lost or there twice, no command says something else with exit 0, and nothing had to be done by hand.
source "$(dirname "$0")/../farm/common.sh"
FAULT=$3 FLIP=$4 N_FAULT=$5 N_FLIP=$6 SEED=${7:-$$}
RANDOM=$SEED
SIZE="--set passkey.iterations=3" # 48 units in 3 bundles
MPIRUN=
declare -A TRIED BAD SEEN
FAILED=0

sweep() { # OUT: one process; the shell's own words about killed ones are not wanted
    { timeout -k 5 120 "$KVSWEEP" run -q "$HERE/../farm/farm.yaml" $SIZE -o "$1" 2>"$DIR/err"; } 2>/dev/null
}
count() { # ROW: one more try
    TRIED[$1]=$((${TRIED[$1]:-0} + 1))
}
bad() { # ROW WHAT
    BAD[$1]=$((${BAD[$1]:-0} + 1))
    FAILED=$((FAILED + 1))
    echo "FAIL ($1): $2" >&2
    [ $FAILED -lt 20 ] || die "too many failures"
}
random_bit() { # FILE; sets `bit` (a subshell would not go on with the seed)
    bit=$((((RANDOM << 15 | RANDOM) << 15 | RANDOM) % ($(stat -c %s "$1") * 8)))
}
units() { # FILE: ids of the units that a reader sees
    "$KVSWEEP" export "$1" --jsonl 2>/dev/null | grep -o '"unit": "[0-9a-f]*"' | sort
}

echo "seed $SEED"
sweep "$DIR/want.h5" || die "undisturbed run: $(cat "$DIR/err")"
N_UNIT=$(units "$DIR/want.h5" | wc -l)
[ "$N_UNIT" -gt 0 ] || die "no units"

# ---- disturbed runs ----
kinds=(write:EIO write:ENOSPC write:full write:kill write:torn write:after write:TERM write:USR1
    sync:EIO sync:ENOSPC sync:kill sync:after rename:EIO rename:ENOSPC rename:kill rename:after kill)
declare -A last=([write]=0 [sync]=0 [rename]=0) # how many calls an undisturbed run makes
for call in write sync rename; do
    for n in 1 2 4 8 16 32 64 128 256 512 1024; do
        rm -rf "$DIR/probe.h5"*
        KVS_FAULT=$call:$n:kill LD_PRELOAD=$FAULT sweep "$DIR/probe.h5" && break
        last[$call]=$n
    done
    [ "${last[$call]}" -gt 0 ] || die "no $call was disturbed"
done

disturb() { # OUT KIND: status of the run
    local call=${2%%:*} pid
    if [ "$2" = kill ]; then # at any time
        sweep "$1" &
        pid=$!
        sleep "$(printf '0.%03d' $((RANDOM % 900)))"
        for m in $(ps -o pid= --ppid $pid); do
            for k in $(ps -o pid= --ppid "$m"); do kill -9 "$k" 2>/dev/null; done
        done
        wait $pid
        return
    fi
    KVS_FAULT=$call:$((1 + RANDOM % (2 * ${last[$call]}))):${2#*:} LD_PRELOAD=$FAULT sweep "$1"
}
faults=0
while [ $faults -lt "$N_FAULT" ]; do
    out=$DIR/got.h5 before=$DIR/before row=
    rm -rf "$out"*
    : >"$before"
    for _ in 1 2 3; do
        row=${kinds[$((RANDOM % ${#kinds[@]}))]}
        disturb "$out" "$row"
        rc=$?
        faults=$((faults + 1))
        count "$row"
        if [ $rc = 0 ]; then
            "$H5SAME" "$DIR/want.h5" "$out" >"$DIR/same" 2>&1 || bad "$row" "exit 0, and $(cat "$DIR/same")"
            break
        fi
        if [ -e "$out" ] || [ -e "$out.journal" ]; then units "$out" >"$DIR/now"; else : >"$DIR/now"; fi
        [ -z "$(uniq -d "$DIR/now")" ] || bad "$row" "a unit is there twice"
        [ -z "$(comm -23 "$before" "$DIR/now")" ] || bad "$row" "a unit that was there is lost"
        cp "$DIR/now" "$before"
    done
    if ! sweep "$out"; then
        bad "$row" "the same command does not go on: $(cat "$DIR/err")"
    else
        "$H5SAME" "$DIR/want.h5" "$out" >"$DIR/same" 2>&1 || bad "$row" "$(cat "$DIR/same")"
        [ ! -e "$out.journal" ] || bad "$row" "the journal stays"
        ls "$out".tmp.* >/dev/null 2>&1 && bad "$row" "a temporary file stays"
    fi
done

# ---- bits of a finished file ----
# every command either fails or says what it says about the whole file
say() { # COMMAND FILE: its words, without names of files
    case $1 in
    status) "$KVSWEEP" status "$2" --json ;;
    export) "$KVSWEEP" export "$2" --jsonl ;;
    diff) "$KVSWEEP" diff "$2" --settings tiny/full,tiny/kivi:bits=2 --json ;;
    report) rm -rf "$DIR/report" && "$KVSWEEP" report "$2" -o "$DIR/report" && cat "$DIR"/report/*.csv "$DIR"/report/*.md ;;
    merge) rm -f "$DIR/merged.h5" && "$KVSWEEP" merge "$2" -o "$DIR/merged.h5" && "$H5SAME" "$DIR/want.h5" "$DIR/merged.h5" ;;
    pack) cp "$2" "$DIR/packed.h5" && "$KVSWEEP" pack "$DIR/packed.h5" && "$H5SAME" "$DIR/want.h5" "$DIR/packed.h5" ;;
    run) sweep "$2" && "$H5SAME" "$DIR/want.h5" "$2" ;;
    verify) "$KVSWEEP" verify "$2" -n 1 ;;
    esac 2>"$DIR/say.err" | sed "s|$2||g"
    return "${PIPESTATUS[0]}"
}
commands="status export diff report merge pack verify run"
choose() { # sets `chosen`: all commands, or in a short campaign export and two others
    local all=($commands)
    chosen=$commands
    [ "$N_FLIP" -ge 200 ] || chosen="export ${all[RANDOM % 8]} ${all[RANDOM % 8]}"
}
flipped=$DIR/flipped.h5
prepare_flips() { # FILE: what the commands say
    cp "$1" "$flipped"
    for c in $commands; do
        say $c "$flipped" >"$DIR/say.$c" || die "$c of the whole file: $(cat "$DIR/say.err")"
    done
}
flip_file() { # ROW FILE
    local bit detected=0 c rc chosen
    random_bit "$2"
    choose
    count "$1"
    for c in $chosen; do
        cp "$2" "$flipped"
        "$FLIP" "$flipped" "$bit"
        say $c "$flipped" >"$DIR/said"
        rc=$?
        if [ $rc != 0 ]; then
            detected=1
            [ $rc -lt 124 ] || CRASHED=$((CRASHED + 1))
        elif ! cmp -s "$DIR/said" "$DIR/say.$c"; then
            bad "$1" "bit $bit: $c says something else with exit 0"
        fi
    done
    SEEN[$1]=$((${SEEN[$1]:-0} + detected))
}
CRASHED=0
prepare_flips "$DIR/want.h5"
for ((i = 0; i < N_FLIP * 2 / 5; i++)); do flip_file "bit of .h5" "$DIR/want.h5"; done
CRASHED_SEALED=$CRASHED
if command -v h5clear >/dev/null; then # any program that has opened it for writing cuts the seal off
    cp "$DIR/want.h5" "$DIR/unsealed.h5"
    h5clear -s "$DIR/unsealed.h5"
    prepare_flips "$DIR/unsealed.h5"
    for ((i = 0; i < N_FLIP / 5; i++)); do flip_file "bit of .h5, no seal" "$DIR/unsealed.h5"; done
fi

# ---- bits of a journal ----
for ((n = 1; n <= 2 * last[sync]; n++)); do # a run that ended half-way
    rm -rf "$DIR/half.h5"*
    KVS_FAULT=sync:$n:kill LD_PRELOAD=$FAULT sweep "$DIR/half.h5" && break
    half=$(units "$DIR/half.h5" | wc -l)
    [ "$half" -eq 0 ] || break
done
[ "${half:-0}" -gt 0 ] && [ "$half" -lt "$N_UNIT" ] || die "nothing half-way"
flip_journal() { # ROW SUFFIX
    local out=$DIR/got.h5 file bit
    rm -rf "$out"*
    cp -r "$DIR/half.h5.journal" "$out.journal"
    [ ! -e "$DIR/half.h5" ] || cp "$DIR/half.h5" "$out"
    file=$(ls "$out.journal"/*.1$2)
    random_bit "$file"
    "$FLIP" "$file" "$bit"
    count "$1"
    "$KVSWEEP" export "$out" --jsonl 2>/dev/null >"$DIR/part.jsonl" && # what can be read is right
        [ -z "$(sed 's/"\(attempt\|rank\|peak_bytes\)": [0-9]*//g' "$DIR/part.jsonl" | sort | comm -23 - "$DIR/want.jsonl")" ] ||
        bad "$1" "bit $bit: export says something else"
    sweep "$out" || bad "$1" "bit $bit: the same command does not go on: $(cat "$DIR/err")"
    "$H5SAME" "$DIR/want.h5" "$out" >"$DIR/same" 2>&1 || bad "$1" "bit $bit: $(cat "$DIR/same")"
    [ -e "$out.journal.damaged" ] && SEEN[$1]=$((${SEEN[$1]:-0} + 1))
    [ ! -e "$out.journal" ] || bad "$1" "bit $bit: the journal stays"
}
"$KVSWEEP" export "$DIR/want.h5" --jsonl | sed 's/"\(attempt\|rank\|peak_bytes\)": [0-9]*//g' | sort >"$DIR/want.jsonl"
for ((i = 0; i < N_FLIP / 5; i++)); do
    flip_journal "bit of the journal" ""
    flip_journal "bit of .big" .big
done

# ---- table ----
printf '%-22s %6s %9s %7s\n' fault tries noticed wrong
for row in "${!TRIED[@]}"; do
    printf '%-22s %6d %9s %7d\n' "$row" "${TRIED[$row]}" "${SEEN[$row]:--}" "${BAD[$row]:-0}"
done | sort
[ $CRASHED_SEALED = 0 ] || die "$CRASHED_SEALED commands crashed on a sealed file"
[ $FAILED = 0 ] || die "$FAILED wrong"
echo "passed: $faults disturbed runs, bits changed, $N_UNIT units each; $CRASHED commands ended by a signal where the seal was gone"
