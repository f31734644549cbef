#!/usr/bin/env bash
# Usage: test_paper.sh KVSWEEP H5SAME MAKE_MODELS. The paper's grid with its extra model (configs/sweeps/paper66.yaml) from prompt
# to report on two ranks, over small random-weight checkpoints in the published layouts.
source "$(dirname "$0")/common.sh"
MAKE=$3
FREE='models=["mamba*",rwkv-5-world-7b,"recurrentgemma*"]' # those without a growing cache
N_SETTING=66 N_EXAMPLE=20 # 3 x 20 settings and 6; 16 datasets and 2 lengths x 2 depths of the needle

"$MAKE" "$HERE/../fixtures" "$DIR/m" && "$MAKE" "$HERE/../fixtures" "$DIR/again" || die "make_models"
diff -r "$DIR/m" "$DIR/again" || die "the models are not made alike twice"
export KVSWEEP_MODELS=$DIR/m/models KVSWEEP_DATA=$DIR/m/data KVSWEEP_CACHE=$DIR/m/cache

# sweep RANKS OUT [OPTION…]
sweep() {
    local n=$1 out=$2
    shift 2
    [ -n "$MPIRUN" ] || n=alone
    local start=()
    [ "$n" = alone ] || start=("$MPIRUN" -n "$n")
    timeout -k 5 600 "${start[@]}" "$KVSWEEP" run -q paper66 --set passkey.lengths=100+400 --set passkey.depths=2 \
        --set passkey.iterations=1 --set passkey.max_new=8 --set longbench.max_new=16 --set memory=64MiB -o "$out" "$@" \
        > "$DIR/log" 2>&1 || die "sweep into $(basename "$out"): $(cat "$DIR/log")"
}
sweep 2 "$DIR/paper.h5"
n=$((N_SETTING * N_EXAMPLE))
"$KVSWEEP" status "$DIR/paper.h5" | grep -q "$n of $n units, 0 not ok, complete" || die "$("$KVSWEEP" status "$DIR/paper.h5" | head -5)"

# one process gives the same answers: nothing in a merge is new or contradicts
sweep alone "$DIR/alone.h5" --set "$FREE"
"$KVSWEEP" verify "$DIR/alone.h5" --bundles 3 || die "verify"
"$KVSWEEP" merge "$DIR/paper.h5" "$DIR/alone.h5" -o "$DIR/both.h5" || die "merge"
same "$DIR/paper.h5" "$DIR/both.h5"

# a compressor has nothing to act on in a model without a cache: that setting is left out with a line, the others run
sweep alone "$DIR/refused.h5" --set 'models=[mamba-chat]' --set 'grids.1.methods=[full,"kivi:bits=2"]'
grep -q 'refused: mamba-chat/kivi:bits=2: .*nothing to compress' "$DIR/log" || die "no line about the refused setting: $(cat "$DIR/log")"
"$KVSWEEP" status "$DIR/refused.h5" | grep -q "$N_EXAMPLE of $N_EXAMPLE units, 0 not ok, complete" || die "status of the rest"
! "$KVSWEEP" run -q paper66 --strict --set 'models=[mamba-chat]' --set 'grids.1.methods=[full,"kivi:bits=2"]' \
    -o "$DIR/strict.h5" > "$DIR/log" 2>&1 || die "--strict"

# what stands before the prompts (spec: tasks.md 2.6): how often the id of BOS begins a templated prompt of LongBench, an untemplated
# one and the needle, as most pipelines and as StreamingLLM's send them
bos() {
    local model=$1 method=$2 id=$3 n=
    for task in longbench/qasper longbench/trec passkey; do
        n+=" $("$KVSWEEP" prompts paper66 --task $task --model "$model" --method "$method" --set passkey.lengths=100 2> "$DIR/log" |
            head -1 | sed 's/.*"ids": *\[\([^]]*\)\].*/\1/' | awk -F'[, ]+' -v id="$id" '{ while ($(n + 1) == id) n++; print n + 0 }')"
    done
    [ "$n" = " $4" ] || die "BOS of $model under $method:$n instead of $4: $(cat "$DIR/log")"
}
bos llama-3-8b-instruct full 1600 "2 1 1"
bos llama-3-8b-instruct streaming 1600 "2 1 2"
bos mistral-7b-instruct-v0.2 full 1 "2 1 1"
bos mistral-7b-instruct-v0.2 streaming 1 "1 1 1"
bos longchat-7b-v1.5-32k full 1 "1 1 1"
bos longchat-7b-v1.5-32k streaming 1 "1 1 1"
for model in recurrentgemma-2b-it recurrentgemma-9b-it; do
    bos $model full 2 "2 1 1"
done
for model in mamba-2.8b mamba-chat mamba2-2.7b rwkv-5-world-7b; do
    bos $model full 0 "0 0 0"
done

# what each unit says of itself: setting, task, prompt tokens, whether it was cut, bytes kept, new tokens, what ended the answer
"$KVSWEEP" export "$DIR/paper.h5" --jsonl | tr -d '" {}' | awk -F, '{
    for (i = 1; i <= NF; i++) { at = index($i, ":"); v[substr($i, 1, at - 1)] = substr($i, at + 1) }
    print v["setting"], v["task"], v["n_prompt"], v["truncated"], v["kv_bytes_alone"], v["n_new"], v["stop"]
    delete v
}' > "$DIR/units"
# check DESCRIPTION AWK_PROGRAM: the program exits with 1 on what is wrong
check() {
    awk "$2" "$DIR/units" || die "$1: $(grep narrativeqa "$DIR/units")"
}
check "prompts above a model's limit are cut, others are not" '
    $2 ~ /narrativeqa/ && $1 ~ /^(mamba|rwkv)/ { cut++; if (!$4) bad = 1 }
    $2 ~ /hotpotqa/ && $4 { bad = 1 }
    END { exit bad || cut != 4 }'
check "the loops of mamba-ssm and of the package rwkv know no end" '
    $1 ~ /^(mamba-chat|mamba2|rwkv)/ { n++; if ($7 != "max_new" || $6 != ($2 ~ /passkey/ ? 8 : 16)) bad = 1 }
    END { exit bad || n != 3 * 20 }'
check "a state is as large after any prompt" '
    $1 ~ /^(mamba|rwkv)/ { if (bytes[$1] && bytes[$1] != $5) bad = 1; bytes[$1] = $5; n++ }
    END { exit bad || n != 4 * 20 }'
check "a cache is not, and compressors make it smaller" '
    $2 ~ /narrativeqa/ { full[$1] = $5 } $2 ~ /hotpotqa/ { short[$1] = $5 }
    END {
        for (s in full) {
            split(s, part, "/")
            if (part[1] ~ /^(llama|mistral|longchat)/ && full[s] <= short[s] && s !~ /streaming/) exit 1
            if (s ~ /(kivi|flexgen|streaming)/ && full[s] * 1.5 > full[part[1] "/full"]) exit 1
            n++
        }
        exit n != 66
    }'
check "LLMLingua-2 shortens prompts by its rate" '
    $2 ~ /narrativeqa/ { n[$1] = $3 }
    END {
        m = "llama-3-8b-instruct"
        exit !(n[m "/full"] > n[m "/llmlingua2:rate=2"] && n[m "/llmlingua2:rate=2"] > n[m "/llmlingua2:rate=8"])
    }'

# the paper's table: a row for each setting, a column for each category
"$KVSWEEP" report "$DIR/paper.h5" -o "$DIR/report" > "$DIR/log" || die "report: $(cat "$DIR/log")"
head -1 "$DIR/report/categories.csv" | grep -q "needle.*single_doc_qa.*multi_doc_qa.*summarization.*few_shots.*synthetic.*code" ||
    die "categories: $(head -1 "$DIR/report/categories.csv")"
for f in categories tasks settings; do
    [ "$(tail -n +2 "$DIR/report/$f.csv" | wc -l)" = $N_SETTING ] || die "$f.csv has not $N_SETTING rows"
done
[ "$(ls "$DIR/report" | grep -c '^needle_')" = $N_SETTING ] || die "not every needle has its figure"
echo "passed: paper"
