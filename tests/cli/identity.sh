# what a unit id covers is a column: runs that differ there share a file, never a row, a mean or a count
rows() { # ANSWER: seven rows, whose contexts max_len 300 cuts and 512 does not
    local more=$(printf 'Then she went on to a hall with %d doors. ' 1 2 3 4)
    for i in 1 2 3 4 5 6 7; do
        echo "{\"_id\": \"$i\", \"input\": \"Where is Anna?\", \"context\": \"Anna went to room $i. $more\", \"answers\": [\"What\", $1], \"length\": 5, \"all_classes\": null}"
    done >q.jsonl
}
small() {
    kvsweep run -q "$TESTS/farm/farm.yaml" --set 'methods=[full]' --set 'tasks=[{name: longbench/hotpotqa, data: q.jsonl}]' "$@"
}
mix() {
    small --set models.0.template=$1 --set models.0.max_len=$2 -o "$3"
}
rows '"x"' && mix none 300 x.h5 && rows "$(kvsweep export x.h5 --jsonl | sed -n 's/.*"text": \("[^"]*"\).*/\1/p' | paste -sd,)"
mix chatml 512 mix.h5
kvsweep status mix.h5
mix none 512 mix.h5
mix none 300 mix.h5
kvsweep status mix.h5
mix none 300 mix.h5 && kvsweep status mix.h5 | head -1 # nothing left to do
kvsweep export mix.h5 --csv | cut -d, -f2,7-9 | sort | uniq -c
kvsweep report mix.h5 -o mix >/dev/null && cut -d, -f1,5,11 mix/settings.csv
kvsweep diff mix.h5 --settings full,full
kvsweep diff mix.h5 --settings full@none@max_len=512,full@none@max_len=300
kvsweep diff mix.h5 --across --settings full@none@max_len=512,full@none@max_len=300 | head -2
# merged from files of their own, in any order, it is the same; two rows of the data are enough from here on
head -2 q.jsonl >r.jsonl && mv r.jsonl q.jsonl
mix chatml 512 a.h5
mix none 512 b.h5
mix none 300 c.h5
kvsweep merge c.h5 a.h5 b.h5 -o m.h5 && kvsweep status m.h5 | sort
# another name for the same texts is the same setting; the rows of one file say where its models were
cp -r "$TESTS/fixtures/tiny" tiny && small --set models.0.path=$PWD/tiny -o a.h5 && small -o a.h5 && kvsweep status a.h5
# files of schema 1: read by four commands, which say so once; not extended, joined or written again
cp "$TESTS/fixtures/results/schema1.h5" 1.h5
kvsweep status 1.h5
kvsweep diff 1.h5 --settings full,kivi
kvsweep export 1.h5 --jsonl 2>/dev/null | grep -o '"\(template\|max_len\|protocol\|n_question\|kept_min\)": [^,]*' | sort | uniq -c
kvsweep report 1.h5 -o 1 && cut -d, -f1,5,11 1/settings.csv
small -o 1.h5
kvsweep pack 1.h5
kvsweep verify 1.h5
kvsweep merge 1.h5 m.h5 -o y.h5
cmp 1.h5 "$TESTS/fixtures/results/schema1.h5" && ls -d 1.h5*
# other weights under one model hash: what the hash samples is equal, what it does not see differs
shard() { # FOLDER: the tiny model with an embedding of 800 rows in a file of its own
    mkdir "$1" && cp "$TESTS/fixtures/tiny/tokenizer.json" "$1"
    sed 's/"vocab_size": 400/"vocab_size": 800/' "$TESTS/fixtures/tiny/config.json" >"$1/config.json"
    sed 's/model.embed_tokens.weight/model.rotary_emb.inv_freq/' "$TESTS/fixtures/tiny/model.safetensors" >"$1/a.safetensors"
    local head='{"model.embed_tokens.weight":{"dtype":"BF16","shape":[800,64],"data_offsets":[0,102400]}}   '
    local names=$(grep -ao '"model.[a-z0-9_.]*weight"' "$1/a.safetensors")
    {
        printf "\\x$(printf %x ${#head})\\0\\0\\0\\0\\0\\0\\0%s" "$head"
        tail -c +2089 "$TESTS/fixtures/tiny/model.safetensors" | head -c 51200
        tail -c +2089 "$TESTS/fixtures/tiny/model.safetensors" | head -c 51200
    } >"$1/b.safetensors"
    {
        echo '{"weight_map": {"model.embed_tokens.weight": "b.safetensors"'
        for n in $names; do echo ", $n: \"a.safetensors\""; done
        echo '}}'
    } >"$1/model.safetensors.index.json"
}
shard one && shard two && printf '\77' | dd of=two/b.safetensors bs=1 seek=$((104 + 5001)) conv=notrunc 2>/dev/null
cmp one/b.safetensors two/b.safetensors | sed 's/,.*//'
small --set models.0.path=$PWD/one -o w.h5
small --set models.0.path=$PWD/two --set models.0.max_len=300 -o w.h5 2>&1 | sed "s,$PWD/,,g"
kvsweep status w.h5
small --set models.0.path=$PWD/two -o v.h5 && kvsweep diff w.h5 v.h5 --settings full@max_len=4096,full
# rules that change one task alone: the units of the others are computed once, and stand in the row of every rule
rules() { # RULE: two settings on two examples of each of two tasks
    kvsweep run -q "$TESTS/farm/farm.yaml" --set 'methods=[full,"kivi:bits=2"]' --set "overrides=[$1]" --set models.0.max_len=300 -o r.h5 --set \
        'tasks=[{name: passkey, lengths: 40, unit: words, depths: 2, iterations: 1}, {name: longbench/hotpotqa, data: q.jsonl}]' &&
        kvsweep status r.h5 && kvsweep export r.h5 --csv | cut -d, -f1 | sort | uniq -d
}
rules '{when: {task: passkey}, set: {rope_theta_factor: 32}}'
rules '{when: {task: pass*, method: kivi}, set: {residual: 32}}'
rules '{when: {task: passkey}, set: {rope_theta_factor: 32}}' | head -1
rules '{when: {task: longbench/*}, set: {rope_theta_factor: 1}}, {when: {method: kivi, task: passkey}, set: {residual: 128}}' # changes nothing: a third pair of rows
ls r.h5*
kvsweep export r.h5 --csv | cut -d, -f2,5 | sort | uniq -c
kvsweep report r.h5 -o r >/dev/null && grep full r/settings.csv | cut -d, -f1,5,11
# a file that was removed while its journal is there
rm w.h5 && small --set models.0.path=$PWD/one -o w.h5 2>&1 | sed "s,$PWD/,,g"
