#!/usr/bin/env bash
# Usage: test_comm.sh TEST_COMM. Groups of 2 and 4 ranks on CPUs; one that loses a rank ends with its name, in time.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_odls_base_sigkill_timeout=0 OMP_NUM_THREADS=1
cd "$(dirname "$0")/.." || exit 1
for n in 2 4; do
    out=$(timeout -k 5 120 mpirun -n $n "$1" 2>&1) || { echo "$out"; echo "FAIL: $n ranks"; exit 1; }
    [ "$(grep -c 'PASSED  . 5 test' <<<"$out")" = $n ] || { echo "$out"; echo "FAIL: $n ranks ran other tests"; exit 1; }
done
out=$(timeout -k 5 100 mpirun -n 2 "$1" silent 2>&1) && { echo "FAIL: a lost rank is no error"; exit 1; }
grep -q "rank 1 has given no sign of life for 2 s while weights are handed on lost=1 in_time=1" <<<"$out" || { echo "$out"; exit 1; }
echo "passed: groups"
