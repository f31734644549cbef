# a whole run: results, status, export, second start
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'passkey.iterations=1' -o r.h5 && ls
kvsweep status r.h5
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'passkey.iterations=1' -o r.h5
kvsweep export r.h5 --csv | head -1
kvsweep export r.h5 --csv | wc -l
kvsweep export r.h5 --jsonl | wc -l
kvsweep verify r.h5
kvsweep run -q "$TESTS/farm/farm.yaml" --set mode=paper --set dtype=f32 -o r.h5
# budgets in bytes: the caches stay within them; what cannot is an error of its unit
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'methods=["streaming:budget=48KiB","kivi:budget=70KiB"]' --set 'passkey.iterations=1' \
    --set passkey.lengths=8+60 -o b.h5
kvsweep export b.h5 --jsonl | grep -o '"\(setting\|status\|n_prompt\|kv_bytes_alone\|n_local\|kept_bits\|error\)": [^,}]*' | tr '\n' ' ' |
    sed 's/"setting"/\n&/g' | sort | uniq -c
# the report and diff know a strength as it was asked for; ids stay
kvsweep report r.h5 -o report && sed -n 's/^| \([^|]*\) |.*/\1/p' report/settings.md && cut -d, -f1 report/settings.csv
kvsweep diff r.h5 --settings streaming:ratio=4,full
kvsweep diff r.h5 --settings streaming:ratio=5,full
# a file that reaches its limit is like a full disk: a line, status 1, nothing left behind
limited() {
    (ulimit -f 4 && kvsweep "$@")
    echo "[$?]"
}
limited export r.h5 --csv -o limited.csv
limited pack r.h5
limited merge r.h5 -o limited.h5
ls
# figures: one length and its caption; labels of scores near 0 stay off the axis' numbers
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'methods=["streaming:ratio=2","streaming:ratio=4","kivi","full","h2o:ratio=2","h2o:ratio=4","knorm:ratio=2"]' \
    --set passkey.iterations=1 --set passkey.lengths=60 -o f.h5
kvsweep report f.h5 -o figures >/dev/null
grep -o 'viewBox="[^"]*"\|<text x="[^"]*".*length;' figures/needle_passkey_tiny_full.svg
sed -n 's/<text x="[^"]*" y="\([^"]*\)".*:.*/\1/p' figures/frontier_tiny.svg | sort -n | tail -1
