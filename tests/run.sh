#!/usr/bin/env bash
# tests/run.sh [quick|long]: runs the tests of that label and counts them; fewer than expected is a failure too.
set -uo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=5000 # the machine may have other work; see sweep/main.c
label=${1:-quick}
expected=$(cat tests/expected."$label")
log=$(mktemp)
trap 'rm -f "$log"' EXIT
ctest --test-dir build -L "$label" --output-on-failure --timeout 900 2>&1 | tee "$log"
ran=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:' "$log")
passed=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:.* Passed ' "$log")
skipped=$(grep -cE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:.*\*\*\*Skipped ' "$log")
failed=$((ran - passed - skipped))
if [ "$ran" -lt "$expected" ]; then
    echo "only $ran of at least $expected tests ran"
    failed=$((failed + expected - ran))
fi
[ "$skipped" -eq 0 ] || { echo "$skipped skipped:" && grep -ah SKIPPED build/Testing/Temporary/LastTest.log; }
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
