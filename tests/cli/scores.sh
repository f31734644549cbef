# report, status, diff, export and the progress line print one number for one thing, in both modes
rows() { # DATASET N: rows of code whose answers the tiny model meets in part
    for i in $(seq "$2"); do
        printf '{"_id": "%s%d", "input": "x = %d\\n", "context": "def f(a):\\n    return a + %d\\n", "answers": ["%sreturn x + %d"], "length": 9, "all_classes": null, "language": "python"}\n' \
            "$1" "$i" "$i" "$i" "$(printf "%0${i}d" 0)" "$i"
    done >"$1.jsonl"
}
rows lcc 7 && rows repobench-p 6 && rows passage_count 3
tasks='[{name: longbench/lcc, data: lcc.jsonl}, {name: longbench/repobench-p, data: repobench-p.jsonl}, {name: longbench/passage_count, data: passage_count.jsonl}, {name: passkey, lengths: 8, depths: 2, iterations: 1, digits: 5, max_new: 8}]'
percent() {
    awk -v x="$1" 'BEGIN { printf "%.2f", 100 * x }'
}
compare() { # FILE MODE
    kvsweep run "$TESTS/farm/farm.yaml" --set mode="$2" --set 'methods=[full,"streaming:budget=60KiB"]' --set "tasks=$tasks" -o "$1" 2>"$1.log" || cat "$1.log"
    kvsweep export "$1" --csv --scores -o scores.csv
    kvsweep report "$1" -o report >/dev/null
    kvsweep diff "$1" --settings full,streaming:budget=60KiB --json >diff.json
    for method in full streaming:budget=60KiB; do
        side=a && [ $method = full ] || side=b
        for whole in longbench needle; do
            line=$(grep "units  full" "$1.log" | tail -1 | grep -o "  $method $whole [0-9.]*" | grep -o '[0-9.]*$')
            status=$(kvsweep status "$1" | awk -v m="tiny/$method" -v c=$([ $whole = needle ] && echo 7 || echo 3) '$1 == m { print $c }')
            json=$(kvsweep status "$1" --json | tr -d '\n ' | grep -o "\"tiny/$method\".*" | grep -o "\"name\":\"$whole\",\"scored\":[0-9]*,\"score\":[^,]*" | head -1 | sed 's/.*://')
            export=$(awk -F, -v m="tiny/$method" -v w=$whole '$1 == m && $0 ~ ",whole," w "," { sub(".*,whole," w ",", ""); split($0, f, ","); print f[2] }' scores.csv)
            diff=$(grep -o "\"mean of $whole\", \"level\": \"whole\", \"a\": [^,]*, \"b\": [^,]*" diff.json | sed "s/.*\"$side\": //; s/,.*//")
            report=$(awk -F'|' -v m=" $method " -v c=$([ $whole = needle ] && echo 7 || echo 3) '$2 == m { sub(/ \[.*/, "", $c); print $c + 0 }' report/settings.md)
            set -- "$1" "$2" "$line" "$status" "$(percent "$json")" "$(percent "$export")" "$(percent "$diff")" "$(printf %.2f "$report")"
            [ -n "$line" ] && [ "$(printf '%s\n' "${@:3}" | sort -u | wc -l)" = 1 ] && echo "$2 $method $whole: one number" || echo "$2 $method $whole: $*"
        done
    done
    # a category is the mean of its tasks (in paper mode rounded); passage_count has a score and is in no mean
    awk -F, -v limit=$([ "$2" = paper ] && echo 0.0050001 || echo 0.000000001) '
        $1 == "tiny/streaming:budget=60KiB" { sub(".*,(task|category|whole),", ""); split($0, f, ","); score[f[1]] = 100 * f[3]; n[f[1]] = f[2] }
        END { off = score["code"] - (score["longbench/lcc"] + score["longbench/repobench-p"]) / 2
              good = score["code"] > 0 && off * off < limit * limit && score["code"] == score["longbench"]
              print n["code"], n["longbench"], n["longbench/passage_count"], (good ? "adds up" : "off by " off) }' scores.csv
}
compare fair.h5 fair
compare paper.h5 paper
ls report
cut -d, -f 23-32 report/settings.csv | head -1
grep -o '"task": "code".*"task": "mean of l' diff.json | sed 's/: [-0-9.e]*\([,}]\)/: N\1/g'
