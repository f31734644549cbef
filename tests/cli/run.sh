#!/usr/bin/env bash
# Usage: cli/run.sh KVSWEEP [--update]. Runs every cli/NAME.sh with `kvsweep` on the path, in an empty folder, and compares what
# it prints (both streams, and the status of each command where the script prints it) with cli/NAME.expected.
program=$(realpath -e "$1") || exit 1
cd "$(dirname "$0")" || exit 1
here=$PWD bad=0 n=0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/bin"
ln -s "$program" "$dir/bin/kvsweep"
export PATH=$dir/bin:$PATH TESTS=$(realpath ..) CONFIGS=$(realpath ../../configs)
export KVSWEEP_CACHE=/nonexistent/cache KVSWEEP_DATA=/nonexistent/data KVSWEEP_MODELS=/nonexistent/models LC_ALL=C.UTF-8 COLUMNS=80
for script in *.sh; do
    name=${script%.sh}
    [ "$name" = run ] && continue
    mkdir "$dir/$name"
    (cd "$dir/$name" && bash "$here/$script" 2>&1) | sed "s,$TESTS,TESTS,g; s,$CONFIGS,CONFIGS,g" >"$dir/$name.out"
    if [ "${2:-}" = --update ]; then
        cp "$dir/$name.out" "$name.expected"
    elif ! diff -u "$name.expected" "$dir/$name.out"; then
        echo "FAIL: cli/$name"
        bad=$((bad + 1))
    fi
    n=$((n + 1))
done
echo "$n scripts, $bad failed"
[ $bad = 0 ] && [ $n -gt 0 ]
