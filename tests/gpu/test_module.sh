#!/usr/bin/env bash
# test_module.sh CHECK_OPS MODULE: the module built by nvcc loads; on a host without a GPU opening it is one clear line and
# nothing more, with a GPU its kernels are checked on it.
set -u
check_ops=$1 module=$2
[ -s "$module" ] || { echo "no module $module"; exit 1; }
out=$(LD_LIBRARY_PATH=$(dirname "$module")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$check_ops" cuda 2>&1)
rc=$?
echo "$out" | tail -5
[ $rc = 0 ] && exit 0
[ "$(wc -l <<<"$out")" = 1 ] && grep -qE '^cuda: (device 0: )?no (NVIDIA driver|CUDA-capable device)' <<<"$out" && exit 0
echo "neither checked on a GPU nor refused in one clear line"
exit 1
