#!/usr/bin/env bash
# Everything a host with a GPU can say about the CUDA back end: builds (no network, no MPI, no HDF5), checks every kernel
# and every method on the card, decodes along the processor's tokens, looks for bad memory accesses, times. One table at
# the end; full logs in $KVS_OUT. Exit status 1 if a check failed.
#
#   KVS_CARRY   folder of Debian packages (*.deb) with the libraries this host lacks; made by tests/gpu/carry.sh
#   KVS_MODEL   GGUF file or folder to decode with as well (the embedded model, where it can be brought)
#   KVS_OUT     folder for logs (default build-gpu/out)   KVS_BUILD  build folder (default build-gpu)
#   KVS_SHIM=1  no GPU: the same kernels on fibers of the processor; no timings
#   KVS_STEPS   some of: build ops matrix model sanitizer bench peer (default: all)
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$(realpath -m "${KVS_BUILD:-build-gpu}") out=$(realpath -m "${KVS_OUT:-${KVS_BUILD:-build-gpu}/out}") shim=${KVS_SHIM:-0}
steps=" ${KVS_STEPS:-build ops matrix model sanitizer bench peer} "
mkdir -p "$build" "$out"
table=$out/table.txt failed=0
: >"$table"
export GOMP_SPINCOUNT=5000 OMP_WAIT_POLICY=passive
start=$SECONDS

wanted() { [[ $steps == *" $1 "* ]]; }
say() { printf '%-46s %s\n' "$1" "$2" >>"$table"; }

# check NAME COMMAND…: runs, keeps the log, one line in the table with the log's last line.
check() {
    local name=$1 rc t=$SECONDS log
    shift
    log=$out/${name//[^A-Za-z0-9]/_}.log
    "$@" >"$log" 2>&1
    rc=$?
    [ $rc = 0 ] || { failed=$((failed + 1)); grep -E 'FAILED|error|ERROR' "$log" | head -5; tail -5 "$log"; }
    say "$name" "$([ $rc = 0 ] && echo ok || echo "FAILED ($rc)") in $((SECONDS - t)) s: $(tail -1 "$log" | cut -c1-110)"
    return $rc
}

# Packages are unpacked, not installed: compiler, linker, loader and pkg-config are pointed at them.
unpack() {
    local root=$build/carry lib deb
    mkdir -p "$root"
    for deb in "$KVS_CARRY"/*.deb; do dpkg -x "$deb" "$root" || return 1; done
    lib=$root/usr/lib/$(gcc -print-multiarch)
    sed -i "s|=/usr|=$root/usr|" "$lib"/pkgconfig/*.pc
    export PATH=$root/usr/bin:$PATH C_INCLUDE_PATH=$root/usr/include CPLUS_INCLUDE_PATH=$root/usr/include LIBRARY_PATH=$lib${LIBRARY_PATH:+:$LIBRARY_PATH}
    export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PKG_CONFIG_PATH=$lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    export CMAKE_PREFIX_PATH=$root/usr CMAKE_LIBRARY_PATH=$lib CMAKE_INCLUDE_PATH=$root/usr/include
}

build_all() {
    local options=(-DKVS_MPI=off -DKVS_HDF5=off -DKVS_ONEDNN=auto -DKVS_TESTS=ON) targets=(kvsweep check_ops gpu_matrix gpu_steps gpu_attend gpu_group)
    if [ "$shim" = 1 ]; then
        options+=(-DKVS_CUDA=off)
        targets+=(kvs_cuda_shim kvs_nccl_shim)
    else
        options+=(-DKVS_CUDA=on "-DKVS_CUDA_ARCH=${KVS_ARCH:-90}")
        targets+=(kvs_cuda)
    fi
    cmake -S . -B "$build" -G "$(command -v ninja >/dev/null && echo Ninja || echo 'Unix Makefiles')" "${options[@]}" &&
        cmake --build "$build" -j "$(nproc)" --target "${targets[@]}" && echo "built: ${targets[*]}"
}

bench() { # NAME WHAT CONTEXT METHOD [ISA [OPTION…]]
    check "$1" timeout 300 "$build/kvsweep" bench "$2" --model "$model" --device cuda --dtype bf16 --context "$3" --method "$4" ${5:+--isa "$5"} "${@:6}" &&
        grep -E 'tokens/s|times|MiB|B/s|FLOP/s|share' "$out/${1//[^A-Za-z0-9]/_}.log" | sed 's/^/    /' >>"$table"
}

if [ -n "${KVS_CARRY:-}" ]; then unpack || { echo "cannot unpack $KVS_CARRY"; exit 1; }; fi
if wanted build; then check "build" build_all || { cat "$table"; exit 1; }; fi
[ "$shim" = 1 ] && folder=$build/shim || folder=$build
export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ "$shim" = 1 ] || say "card" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -1)"

wanted ops && check "every kernel against the plain loops" "$build/check_ops" cuda
# Attention of prompts by both kernels against doubles; what is timed stands in the table. The warpgroup kernel runs only
# where it is asked for, until this line has passed on a card.
wanted ops && check "prompts by the warpgroup kernel" timeout 240 "$build/check_ops" cuda-wgmma
wanted ops && check "attention against doubles" timeout 240 "$build/gpu_attend" 140 $([ "$shim" = 1 ] || echo 200 513 1000)
wanted ops && check "NCCL, a group of one" "$build/gpu_group" $([ "$shim" = 1 ] && echo must)
wanted ops && check "decode steps as graphs" "$build/gpu_steps" tests/fixtures/tiny
wanted matrix && check "method matrix, generated model" "$build/gpu_matrix" tests/fixtures/tiny $([ "$shim" = 1 ] && echo 150 6 || echo 700 64)
if wanted model && [ -n "${KVS_MODEL:-}" ]; then
    check "method matrix, $(basename "$KVS_MODEL")" "$build/gpu_matrix" "$KVS_MODEL" $([ "$shim" = 1 ] && echo 40 2 || echo 1500 96)
fi
if [ "$shim" != 1 ]; then
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if wanted sanitizer && [ -n "$tool" ]; then
        check "memcheck" timeout 240 "$tool" --tool memcheck --error-exitcode 9 "$build/gpu_matrix" tests/fixtures/tiny 80 3
        check "memcheck, attention" timeout 240 "$tool" --tool memcheck --error-exitcode 9 "$build/gpu_attend" 70 200
        check "racecheck, attention" timeout 240 "$tool" --tool racecheck --error-exitcode 9 "$build/gpu_attend" 70 200
        check "racecheck" timeout 240 "$tool" --tool racecheck --error-exitcode 9 "$build/gpu_matrix" tests/fixtures/tiny 80 3
    fi
    if wanted bench || wanted peer; then
        # Llama-3-8B in shape, random weights, made on the card; or a smaller one: KVS_SHAPE=small
        model=${KVS_BENCH_MODEL:-$build/model-${KVS_SHAPE:-8b}}
        [ -s "$model/config.json" ] || check "generated weights" python3 tests/gpu/make_model.py "${KVS_SHAPE:-8b}" "$model"
    fi
    if wanted bench; then
        check "attention alone" timeout 240 "$build/gpu_attend" ${KVS_CONTEXTS:-8192 16384 32768} &&
            grep TFLOP "$out/attention_alone.log" | sed 's/^/    /' >>"$table"
        bench "products" kernels 1 full
        bench "twenty settings" sweep "${KVS_SWEEP_CONTEXT:-8192}" full "" --settings 20 --new 128
        for context in ${KVS_CONTEXTS:-2048 8192 32768}; do
            bench "prefill $context" prefill "$context" full
            bench "prefill $context, wgmma" prefill "$context" full wgmma
            for method in full kivi:bits=2 kivi:bits=4 flexgen streaming:keep=0.25; do
                bench "decode $context $method" decode "$context" "$method"
            done
        done
    fi
    if wanted peer; then
        check "limits of the card and transformers" python3 tests/gpu/peer.py "$model" ${KVS_CONTEXTS:-2048 8192 32768} &&
            sed 's/^/    /' "$out/limits_of_the_card_and_transformers.log" >>"$table"
    fi
fi
printf '\n'
cat "$table"
echo "$failed checks failed, $((SECONDS - start)) s"
[ $failed = 0 ]
