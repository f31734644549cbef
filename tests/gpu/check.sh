#!/usr/bin/env bash
# Everything a host with a GPU can say about the CUDA backend: builds (no network, no MPI, no HDF5), checks every kernel
# and every method on the GPU, decodes along the CPU's tokens, times, looks for bad memory accesses. Lines appear as
# they come; the table stands once more at the end. Exit status 1 if a check failed; targets that are missed do not count.
#
#   KVS_CARRY   folder made by tests/gpu/carry.sh: packages of the libraries this host lacks, and perhaps the finished build
#   KVS_MODEL   GGUF file or folder to decode with as well (the embedded model, where it can be brought)
#   KVS_OUT     folder for table.txt and logs.tar.gz (default $OUT, else build-gpu/out), complete after every check
#   KVS_BUILD   build folder (default build-gpu)      KVS_PYTHON  python with torch and transformers (default: looked for)
#   KVS_SHIM=1  no GPU: the same kernels on fibers of the CPU; the benches only to see that they start
#   KVS_STEPS   some of: build ops matrix model bench peer wgmma sanitizer (default: all, in this order; wgmma: the warpgroup
#               kernels, which no GPU has run yet; ops checks them too, but behind everything else that is timed)
#   KVS_SCALE   every time limit times this (default 1; without a GPU 4)
#   KVS_TOTAL   seconds for everything: later checks are left out, the running one is cut (default: none)
#   KVS_BENCH_MODEL, KVS_SHAPE=8b|small  what the benches decode with (default: random weights, Llama-3-8B in shape)
#
# Seconds by step; all estimates, no GPU has run them: H100, 16 cores, weights in /dev/shm, ten seconds for a load of 16 GB.
#   build      carried 1, else 150      bench   weights 20        attention alone 10      peer       copy, product 15
#   ops        after each kernel 40             decode 2k 8k 45   decode 32k 128k 115                2k, 8k, 32k 45
#              at full speed 40                 serial 32k 8k 20  twenty settings 70      sanitizer  memcheck 60 + 60
#              graphs 5, group 5                prefill 35        products 20                        racecheck 60 + 60
#   matrix     40                       wgmma   checks 45 + 10, attention 5, prefill 35              wgmma 45
#   attention  10                                                 decode attention 10
# KVS_STEPS="build bench" with a carried build: about 345, the table of decode but for 128k after 180. Everything: about 920.
#
# Where the host is lent by the minute, and a command may take ten of them: two calls, the second right behind the first, so
# that the host is still held (its build and weights too). 15 minutes with the start are enough. Everything that is held
# against a target is in the first, in one table; what finds no time in the second is left out.
#   KVS_TOTAL=500 KVS_STEPS="build matrix bench peer"        KVS_TOTAL=240 KVS_STEPS="build ops wgmma sanitizer"
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
. tests/gpu/common.sh
build=$(realpath -m "${KVS_BUILD:-build-gpu}") shim=${KVS_SHIM:-0}
out=$(realpath -m "${KVS_OUT:-${OUT:-$build/out}}") logs=$build/logs
steps=" ${KVS_STEPS:-build ops matrix model bench peer wgmma sanitizer} "
failed=0 bench_logs=() weights=0 sampler='' running='' timing=''
host_libraries=${LD_LIBRARY_PATH:-}
export GOMP_SPINCOUNT=5000 OMP_WAIT_POLICY=passive
start=$SECONDS
rm -rf "$logs"
mkdir -p "$build" "$out" "$logs"
: >"$logs/lines"

wanted() { [[ $steps == *" $1 "* ]]; }
log_of() { echo "$logs/${1//[^A-Za-z0-9]/_}.log"; }
judge() { awk -v gpu=$((1 - shim)) -v weights="$weights" -v settings=$((shim ? 3 : 20)) -f tests/gpu/judge.awk "$@"; }
say() { printf '%-40s %s\n' "$1" "$2" | cut -c1-150 | tee -a "$logs/lines"; }

# What is known so far, on disk: the table, and all logs (long ones without their middle) in one file.
keep() {
    local log
    for log in "$logs"/*.log; do
        [ -s "$log" ] && [ "$(stat -c %s "$log")" -gt 400000 ] || continue
        { head -c 150000 "$log"; printf '\n[...]\n'; tail -c 150000 "$log"; } >"$log.part" && mv "$log.part" "$log"
    done
    { cat "$logs/lines"; [ ${#bench_logs[@]} = 0 ] || judge "${bench_logs[@]}"; } >"$out/table.part"
    mv "$out/table.part" "$out/table.txt"
    tar -czf "$out/logs.part" -C "$build" logs && mv "$out/logs.part" "$out/logs.tar.gz"
}

finish() {
    trap - EXIT INT TERM HUP
    # shellcheck disable=SC2086
    [ -z "$running$sampler" ] || kill $running $sampler 2>/dev/null
    [ ! -s "$timing" ] || bench_logs+=("$timing") # what was measured before the end
    keep
    printf '\n== table\n'
    cat "$out/table.txt"
    echo "$failed checks failed, $((SECONDS - start)) s"
    exit $((failed > 0))
}
trap finish EXIT
trap 'failed=$((failed + 1)); say "stopped" "by a signal"; exit' INT TERM HUP

# limit SECONDS: by KVS_SCALE, and by what is left of KVS_TOTAL.
limit() {
    awk -v n="$1" -v scale="${KVS_SCALE:-$((1 + 3 * shim))}" -v total="${KVS_TOTAL:-0}" -v spent=$((SECONDS - start)) \
        'BEGIN { n = int(n * scale + 0.5); left = total - spent; print (total > 0 && left < n) ? int(left) : n }'
}

# Whether KVS_TOTAL is over.
over() { [ "${KVS_TOTAL:-0}" != 0 ] && [ $((SECONDS - start)) -ge $((KVS_TOTAL - 1)) ]; }

# run LIMIT NAME COMMAND…: within its time, everything it prints in its log. In the background, so that a signal to this
# script is heard while it runs.
run() {
    local seconds log
    seconds=$(limit "$1") log=$(log_of "$2")
    shift 2
    [ "$seconds" -ge 1 ] || return 125
    timeout -k 5 "$seconds" "$@" >"$log" 2>&1 &
    running=$!
    wait $running
    local rc=$?
    running=
    return $rc
}

# check LIMIT NAME COMMAND…: one line in the table with the log's last line; of a failure the first lines at once.
check() {
    local name=$2 rc t=$SECONDS log verdict=ok
    log=$(log_of "$name")
    run "$@"
    rc=$?
    if [ $rc = 125 ] && [ ! -e "$log" ]; then say "$name" "left out: no time"; return 1; fi
    case $rc in
    0) ;;
    124 | 137) verdict=$(over && echo "cut: no time" || echo "FAILED: no end") ;;
    *) verdict="FAILED ($rc)" ;;
    esac
    say "$name" "$verdict in $((SECONDS - t)) s: $(tail -n 1 "$log" | tr -s ' ')"
    if [[ $verdict == FAILED* ]]; then
        failed=$((failed + 1))
        { grep -m 5 -nE 'FAIL|rror' "$log"; tail -n 3 "$log"; } | cut -c1-200 | sed 's/^/    | /'
    fi
    keep
    return $rc
}

# The memory of the whole GPU as nvidia-smi sees it, from here to the end, every 0.2 s. It also keeps the GPU open: else,
# where no persistence daemon runs, every program that starts would have to wait until the GPU is set up anew.
sample() {
    : >"$build/memory"
    [ "$shim" = 1 ] && return
    stdbuf -oL nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$build/memory" 2>/dev/null &
    sampler=$!
}
# sampled FROM: the most since sample FROM, beyond what the idle GPU had; the first samples may be of the program before.
sampled() {
    awk -v from="$1" 'NR == 1 { idle = $1 } NR > from + 2 && $1 > max { max = $1 }
        END { if (max) printf "GPU memory at most %d MiB (%d before)\n", max - idle, idle }' "$build/memory"
}

# The same as check, and the rows it measured beside their targets. What was measured before a failure counts.
bench_check() {
    local rc log from
    log=$(log_of "$2") from=$(wc -l <"$build/memory")
    timing=$log
    check "$@"
    rc=$?
    timing=
    if [ -s "$log" ]; then
        sampled "$from" >>"$log"
        bench_logs+=("$log")
        judge "$log"
    fi
    keep
    return $rc
}

# bench LIMIT NAME WHAT OPTION…
bench() { bench_check "$1" "$2" "$bin/kvsweep" bench "$3" --model "$model" --device cuda --dtype bf16 "${@:4}"; }

# python3 that has torch; its folder may have cmake and ninja too.
find_python() {
    local p
    for p in ${KVS_PYTHON:-} python3 "${VIRTUAL_ENV:-/nowhere}"/bin/python3 /opt/*/bin/python3 /venv/bin/python3 "$HOME"/*/bin/python3; do
        command -v "$p" >/dev/null || continue
        "$p" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2>/dev/null && command -v "$p" && return
    done
    return 1
}

# Packages are unpacked, not installed: compiler, linker, loader and pkg-config are pointed at them.
unpack() {
    local root=$build/carry lib deb
    mkdir -p "$root"
    for deb in "$KVS_CARRY"/*.deb; do dpkg -x "$deb" "$root" || return 1; done
    lib=$root/usr/lib/$(gcc -print-multiarch)
    sed -i "s|=/usr|=$root/usr|; s|\([ =]-[LI]\)/usr|\1$root/usr|g" "$lib"/pkgconfig/*.pc
    export PATH=$root/usr/bin:$PATH C_INCLUDE_PATH=$root/usr/include CPLUS_INCLUDE_PATH=$root/usr/include LIBRARY_PATH=$lib${LIBRARY_PATH:+:$LIBRARY_PATH}
    export LD_LIBRARY_PATH=$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PKG_CONFIG_PATH=$lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
    export CMAKE_PREFIX_PATH=$root/usr CMAKE_LIBRARY_PATH=$lib CMAKE_INCLUDE_PATH=$root/usr/include
}

# cuBLASLt and NCCL: the toolkit's own, else those of Python's wheels (nvidia/*/include and lib; names with versions only).
nccl_option=
toolkit_or_wheels() {
    local nvcc toolkit=/usr/local/cuda folder lib
    nvcc=$(ls /usr/local/cuda/bin/nvcc 2>/dev/null || command -v nvcc) # as CMake looks for it
    [ -n "$nvcc" ] && toolkit=$(realpath "$(dirname "$(realpath "$nvcc")")/..")
    local path=$toolkit/lib64:$toolkit/lib
    for folder in $([ -z "$python" ] || "$python" -c 'import glob, sys; print(*(f for p in sys.path for f in glob.glob(p + "/nvidia/*/lib")))'); do
        lib=$(ls "$folder"/libcublasLt.so.[0-9]* "$folder"/libnccl.so.[0-9]* 2>/dev/null | head -1)
        [ -n "$lib" ] || continue
        path=$path:$folder
        case $lib in
        */libcublasLt*)
            if [ ! -e "$toolkit/include/cublasLt.h" ]; then NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -I$folder/../include"; fi
            if [ ! -e "$toolkit/lib64/libcublasLt.so" ] && [ ! -e "$toolkit/lib/libcublasLt.so" ]; then
                mkdir -p "$build/wheels" && ln -sf "$lib" "$build/wheels/libcublasLt.so"
                NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -L$build/wheels"
            fi
            ;;
        *) [ -e "$toolkit/include/nccl.h" ] || [ -e /usr/include/nccl.h ] || nccl_option=-DNCCL_INCLUDE_DIR=$(realpath "$folder/../include") ;;
        esac
    done
    [ -z "${NVCC_APPEND_FLAGS:-}" ] || export NVCC_APPEND_FLAGS
    export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$path
}

# A carried build counts if it is of these sources and starts here.
carried() {
    local folder=${KVS_CARRY:-/nowhere}/build path
    [ "$shim" != 1 ] && [ "$(cat "$folder/stamp" 2>/dev/null)" = "$(stamp)" ] || return 1
    path=$(realpath "$folder")/lib:$LD_LIBRARY_PATH
    LD_LIBRARY_PATH=$path ldd "$folder/kvsweep" "$folder/libkvs_cuda.so" 2>&1 | grep -E 'not found|not a dynamic' && return 1
    LD_LIBRARY_PATH=$path "$folder/kvsweep" --version >/dev/null || return 1
    bin=$(realpath "$folder")
    export LD_LIBRARY_PATH=$path
}

build_here() {
    local module=kvs_cuda options=(-DKVS_CUDA=on "-DKVS_CUDA_ARCH=${KVS_ARCH:-90}" $nccl_option)
    [ "$shim" = 1 ] && module='kvs_cuda_shim kvs_nccl_shim' options=(-DKVS_CUDA=off)
    if [ "$shim" != 1 ] && [ -n "${KVS_CARRY:-}" ]; then unpack || { say "packages" "FAILED: cannot unpack $KVS_CARRY"; return 1; }; fi
    check 420 "build" bash -c '. tests/gpu/common.sh && build_all "$@"' build_all "$build" "$module" "${options[@]}"
}

python=$(find_python)
[ -z "$python" ] || export PATH=$PATH:$(dirname "$python")
with_python=(env "LD_LIBRARY_PATH=$host_libraries" "$python") # not with this project's libraries
[ "$shim" = 1 ] || toolkit_or_wheels
bin=$build
if carried; then
    say "build" "carried, $(cat "$bin/stamp")"
elif wanted build; then
    build_here || { failed=$((failed + (failed == 0))); exit; }
fi
[ "$shim" = 1 ] && folder=$build/shim || folder=$bin
export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ "$shim" = 1 ] || say "GPU" "$(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -1)"
sample

# A faulty kernel shows its name where every one is waited for. What is timed stands in the table.
if wanted ops; then
    check 150 "every kernel, waiting after each" "$bin/check_ops" cuda-wait
    [ "$shim" = 1 ] || check 120 "every kernel against the plain loops" "$bin/check_ops" cuda # fibers never run ahead
    check 60 "decode steps as graphs" "$bin/gpu_steps" tests/fixtures/wide
fi
wanted matrix && check 180 "method matrix, generated model" "$bin/gpu_matrix" tests/fixtures/wide $([ "$shim" = 1 ] && echo 120 4 || echo 700 64)
if wanted ops; then
    check 60 "attention against doubles" "$bin/gpu_attend" auto 140 $([ "$shim" = 1 ] || echo 200 513 1000)
    check 30 "NCCL, a group of one" "$bin/gpu_group" $([ "$shim" = 1 ] && echo must)
fi
if wanted model && [ -n "${KVS_MODEL:-}" ]; then
    check 120 "method matrix, $(basename "$KVS_MODEL")" "$bin/gpu_matrix" "$KVS_MODEL" $([ "$shim" = 1 ] && echo 40 2 || echo 1500 96) real
fi

# Llama-3-8B in shape, random weights, made on the GPU; in memory, if there is room for it there.
shape=${KVS_SHAPE:-8b}
bench_model() {
    [ "$shim" = 1 ] && shape=tiny
    model=$build/model-$shape
    if [ "$shape" = 8b ] && [ "$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print int($4 / 1000000) }')" -ge 18 ] 2>/dev/null; then
        model=/dev/shm/kvsweep-$(id -u)-$shape
    fi
    model=${KVS_BENCH_MODEL:-$model}
    if [ ! -s "$model/config.json" ] && [ -n "$python" ]; then
        check 120 "generated weights" "${with_python[@]}" tests/gpu/make_model.py "$shape" "$model"
    fi
    [ "$shim" != 1 ] || model=tests/fixtures/tiny # smaller still; the generated one was only to be made
    [ -s "$model/config.json" ] || { say "benches" "left out: no weights (no python with torch; KVS_BENCH_MODEL names a folder)"; return 1; }
    weights=$(stat -c %s "$model"/*.safetensors | awk '{ n += $1 } END { print n / 1048576 }')
}

if wanted bench || wanted peer || wanted wgmma; then
    bench_model || steps=${steps/ bench / } steps=${steps/ peer / }
fi
methods=full,kivi:bits=2
if wanted bench && [ "$shim" = 1 ]; then # one of each, small: a wrong option shows here
    bench 60 "decode 2k 8k" decode --context 48,64 --method $methods --sequences 3
    bench 60 "decode serial" decode --context 64,48 --method full --sequences 1 --isa serial
    bench 60 "twenty settings" sweep --context 96 --settings 3 --new 4
    bench_check 60 "attention alone" "$bin/gpu_attend" auto 64
    bench_check 60 "decode attention alone" "$bin/gpu_decode" 64
elif wanted bench; then
    bench 120 "decode 2k 8k" decode --context 2048,8192 --method $methods --sequences 16 # each with a prompt of its own
    # Kernels one after the other; and the memory at 32k, longest first, since memory that was given back stays with the program.
    bench 60 "decode serial" decode --context 32768,8192 --method full --sequences 1 --isa serial
    bench 90 "prefill" prefill --context 8192,32768 --method full
    bench_check 45 "attention alone" "$bin/gpu_attend" auto 8192 16384 32768
    bench_check 45 "decode attention alone" "$bin/gpu_decode" 8192 32768 131072
    bench 230 "decode 32k 128k" decode --context 32768,131072 --method $methods --sequences 1
    bench 150 "twenty settings" sweep --context 8192 --settings 20 --new 128
    bench 75 "products" kernels
fi
if wanted peer; then
    if [ -n "$python" ]; then
        bench_check 150 "the GPU and transformers" "${with_python[@]}" tests/gpu/peer.py "$shape" $([ "$shim" = 1 ] && echo 32 || echo 2048 8192 32768)
    else
        say "the GPU and transformers" "left out: no python with torch"
    fi
fi

# The warpgroup kernels run only where they are asked for, until these lines have passed on a GPU. Behind everything
# else that is timed: one that never ends may take the GPU along. Where the checks fail, nothing of them is timed.
wgmma=1
if wanted ops || wanted wgmma; then
    check 60 "prompts by the warpgroup kernel" "$bin/check_ops" cuda-wgmma || wgmma=0
    check 45 "attention against doubles, wgmma" "$bin/gpu_attend" wgmma 140 $([ "$shim" = 1 ] || echo 200 513 1000) || wgmma=0
fi
if [ $wgmma = 1 ] && wanted wgmma; then
    if [ ! -s "$model/config.json" ]; then
        say "benches, wgmma" "left out: no weights"
    elif [ "$shim" = 1 ]; then
        bench 60 "prefill wgmma" prefill --context 48 --method full --isa wgmma
    else
        bench_check 30 "attention alone, wgmma" "$bin/gpu_attend" wgmma 8192 16384 32768
        bench 75 "prefill wgmma" prefill --context 8192,32768 --method full --isa wgmma
    fi
fi

# sanitize LIMIT NAME TOOL COMMAND…: a tool that refuses the device or finds no end is said, not counted.
sanitize() {
    local name=$2 rc t=$SECONDS log verdict
    log=$(log_of "$name")
    run "$1" "$name" "$sanitizer" --tool "$3" --error-exitcode 9 "${@:4}"
    rc=$?
    if [ $rc = 0 ]; then verdict=ok
    elif [ $rc = 125 ]; then verdict="left out: no time"
    elif [ $rc = 124 ] || [ $rc = 137 ]; then verdict="no end within its limit"
    elif grep -qiE 'not supported|not permitted|internal sanitizer error|no attachable process|unable to|before first instrumented' "$log"; then
        verdict="not available: $(grep -m 1 -iE 'not supported|not permitted|rror|unable|before first' "$log")"
    else
        verdict="FAILED ($rc)"
        failed=$((failed + 1))
        grep -m 8 -E '=====|FAILED' "$log" | cut -c1-200 | sed 's/^/    | /'
    fi
    say "$name" "$verdict in $((SECONDS - t)) s: $(tail -n 1 "$log" 2>/dev/null)"
    keep
}

# Last: instrumented kernels are slow, and those that hand registers from warp to warp (wgmma) are known to hang.
if wanted sanitizer && [ "$shim" != 1 ]; then
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [ -n "$sanitizer" ]; then
        sanitize 75 "memcheck, attention" memcheck "$bin/gpu_attend" auto 70 200
        sanitize 90 "memcheck" memcheck "$bin/gpu_matrix" tests/fixtures/wide 80 3
        sanitize 75 "racecheck, attention" racecheck "$bin/gpu_attend" auto 70 200
        sanitize 90 "racecheck" racecheck "$bin/gpu_matrix" tests/fixtures/wide 80 3
        sanitize 45 "memcheck, wgmma" memcheck "$bin/gpu_attend" wgmma 70 200
    else
        say "sanitizer" "not available: no compute-sanitizer"
    fi
fi
