export KVSWEEP_TINY=$TESTS/fixtures/tiny
kvsweep plan golden --json | grep -v source_sha256
kvsweep plan golden --set 'methods=[full]' | head -2
