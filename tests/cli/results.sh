# what is done with results files that do not hold quite the same things
quick() {
    kvsweep run -q "$TESTS/farm/farm.yaml" --set 'methods=[full,"kivi:bits=2"]' --set passkey.iterations=1 "$@"
}
# diff pairs equal examples only: another seed asks other questions under the same names
quick -o a.h5
quick -o a.h5 --set passkey.seed=8
quick -o b.h5 --set seed=9
quick -o c.h5 --set 'tasks.0.id=pass"key'
kvsweep diff a.h5 --settings full,full
kvsweep diff a.h5 b.h5 --settings full,full
kvsweep diff a.h5 a.h5 --settings full,kivi:bits=2 --json | sed 's/"[abdlh][a-z]*": [-0-9]*, //g'
kvsweep diff c.h5 --settings full,kivi:bits=2 --json | grep -o '"task": [^,]*'
kvsweep merge b.h5 a.h5 -o ab.h5
kvsweep diff ab.h5 a.h5 --settings full,full
# one name, two dtypes or two models of one name: each row has a name of its own, in every order
quick -o a.h5 --set dtype=bf16
kvsweep status a.h5
quick -o bf.h5 --set dtype=bf16
quick -o f.h5
kvsweep merge bf.h5 f.h5 -o m.h5 && kvsweep merge m.h5 f.h5 -o m2.h5 && kvsweep export m2.h5 --csv | cut -d, -f2 | sort | uniq -c
kvsweep diff m.h5 --settings full@bf16,tiny/full@f32
kvsweep diff m.h5 --settings full,tiny/kivi:bits=2@f32
kvsweep diff m.h5 bf.h5 --settings kivi:bits=2@bf16,kivi:bits=2
kvsweep report m.h5 -o m >/dev/null && ls m && cut -d, -f1 m/settings.csv
# figures of every model and setting, whatever the names
long=$(printf '%0250d' 0)
for id in a/b a_b $long $long.1; do
    quick -o l.h5 --set models.0.id=$id
done
kvsweep report l.h5 -o l >/dev/null && ls l | grep -v settings | sed 's/0\{100,\}/0…/'
# no command replaces results, or what it reads, or a file that it then cannot write; links stay links
echo '[1, 2, 3]' >p.json
echo precious >l.out
logits() {
    kvsweep logits "$TESTS/fixtures/tiny" --device ref --prompt p.json "$@"
    echo "[$?]"
}
logits -o f.h5
logits -o p.json
logits -o l.out --method streaming:budget=1
logits -o /dev/null
cat p.json l.out
logits -o l.out && head -c 4 l.out | tail -c 3 && echo
kvsweep export f.h5 --csv -o f.h5
kvsweep status f.h5 | head -1
ln -s f.h5 link.h5
quick -o link.h5 --set 'methods=[full,"kivi:bits=2","kivi:bits=4"]'
kvsweep status f.h5 | head -1
ln -s to.csv link.csv
kvsweep export f.h5 --csv -o link.csv && kvsweep export f.h5 --csv -o /dev/null && wc -l <to.csv && ls -F link.h5 link.csv
# another device than before: said at the start, listed in the file, and told by verify where answers differ
quick -o d.h5 --set 'passkey.lengths=8'
quick -o d.h5 --device cpu 2>&1 | sed 's/on .* (plain C), this run computes on .* (.*):/on A (plain C), this run computes on A (B):/'
kvsweep verify d.h5 --device ref 2>&1 | grep -cE 'all equal|computed on .*; plain C\), here on .* \(plain C\), so that the last bits may differ: '
# a setting that cannot run costs its own timings, not those of others; what is there already is not timed again
sick() {
    kvsweep run "$TESTS/farm/farm.yaml" --set 'methods=["kivi:budget=70KiB",full]' --set passkey.iterations=1 --set passkey.lengths=60 \
        --set timing.examples=1 -o t.h5 "$@" 2>&1 | grep -o 'not timed.*\|timing .*'
}
sick
sick
kvsweep report t.h5 -o t >/dev/null && cut -d, -f1,19 t/settings.csv | sed "s/,[0-9][-+0-9.e]*$/,timed/"
# fidelity that comes too late is told
quick -o z.h5 --set fidelity.examples=0
quick -o z.h5
quick -o z.h5
# ids with quotes and bars in the tables of a report
quick -o i.h5 --set 'models.0.id=a|b "c"' && kvsweep report i.h5 -o i >/dev/null && cut -d, -f1,2 i/settings.csv
quick -o i.h5 --set 'models.0.id=x' && kvsweep report i.h5 -o i >/dev/null && sed -n 's/^\(| [^ ].*"c".full\) |.*/\1/p' i/settings.md
# a file without any finished unit
cp -r "$TESTS/fixtures/tiny" broken && rm broken/model.safetensors
quick -o e.h5 --set models.0.path=$PWD/broken 2>&1 | sed "s,$PWD/,,g"
kvsweep export e.h5 --csv | cut -c1-30
kvsweep export e.h5 --jsonl | wc -l
kvsweep verify e.h5
