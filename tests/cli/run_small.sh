# a whole run: results, status, export, second start
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'passkey.iterations=1' -o r.h5 && ls
kvsweep status r.h5
kvsweep run -q "$TESTS/farm/farm.yaml" --set 'passkey.iterations=1' -o r.h5
kvsweep export r.h5 --csv | head -1
kvsweep export r.h5 --csv | wc -l
kvsweep export r.h5 --jsonl | wc -l
kvsweep verify r.h5
kvsweep run -q "$TESTS/farm/farm.yaml" --set mode=paper --set dtype=f32 -o r.h5
