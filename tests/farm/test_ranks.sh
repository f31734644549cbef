#!/usr/bin/env bash
# Usage: test_ranks.sh KVSWEEP H5SAME. One process, and 1, 2 and 4 ranks, write equal content; so does a second start.
source "$(dirname "$0")/common.sh"
[ -n "$MPIRUN" ] || die "no mpirun"
farm alone "$DIR/alone.h5" || die "alone"
for n in 1 2 4; do
    farm $n "$DIR/n$n.h5" || die "$n ranks"
    same "$DIR/alone.h5" "$DIR/n$n.h5"
done
"$KVSWEEP" report "$DIR/n4.h5" -o "$DIR/report" > "$DIR/report.log" || die "report"
awk -F, 'NR > 1 { rows++; tokens += $2; if ($1 ~ /full/ && !($6 < 1e-6 && $7 == 1)) bad = 1; if ($1 ~ /kivi|streaming/ && !($6 > 1e-6)) bad = 1 }
    END { exit bad || rows != 4 || tokens != 4 * 16 }' "$DIR/report/fidelity.csv" || die "fidelity: $(cat "$DIR/report/fidelity.csv")"
cp "$DIR/n4.h5" "$DIR/again.h5"
farm 2 "$DIR/again.h5" || die "a second start of a complete run"
same "$DIR/alone.h5" "$DIR/again.h5"
[ ! -e "$DIR/again.h5.journal" ] || die "a complete run leaves its journal"
# a smaller grid first, then the whole: settings and examples are added, nothing is refused
farm 2 "$DIR/grown.h5" --set 'methods=[full, "kivi:bits=2"]' || die "part of the grid"
farm 2 "$DIR/grown.h5" || die "the rest of the grid"
"$KVSWEEP" status "$DIR/grown.h5" | grep -q "96 of 96 units, 0 not ok, complete" || die "$("$KVSWEEP" status "$DIR/grown.h5")"
"$KVSWEEP" verify "$DIR/grown.h5" --bundles 3 || die "verify"
# a longer limit adds examples to the same task
rows="$HERE/../fixtures/task/longbench.jsonl"
for limit in 1 2; do
    farm 2 "$DIR/limit.h5" --set "tasks=[{name: longbench/qasper, data: '$rows', limit: $limit, max_new: 4}]" || die "limit $limit"
done
"$KVSWEEP" status "$DIR/limit.h5" | grep -q "8 of 8 units, 0 not ok, complete" || die "$("$KVSWEEP" status "$DIR/limit.h5")"
[ "$("$KVSWEEP" export "$DIR/limit.h5" --jsonl | grep -c '"task": "longbench/qasper"')" = 8 ] || die "limit: other rows"
# what cannot live in one file is refused in one line
line=$(farm alone "$DIR/grown.h5" --set logits.first=none 2>&1) && die "other logits were taken"
[ "$(echo "$line" | wc -l)" = 1 ] || die "not one line: $line"
echo "passed: ranks"
