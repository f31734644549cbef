export KVSWEEP_TINY=$TESTS/fixtures/tiny
kvsweep plan golden --json | grep -v source_sha256
kvsweep plan golden --set 'methods=[full]' | head -2
# sweeps of models that are not here plan from their model files alone
for name in paper65 paper66 cross_model needle_by_recipe; do
    echo "$name: $(kvsweep plan "$name" 2>/dev/null | sed -n 's/\(units\) in .*/\1/p; s/.*\(it would be .* units\)/\1/p' | tr '\n' ' ')"
done
