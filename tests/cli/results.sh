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
