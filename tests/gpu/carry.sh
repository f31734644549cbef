#!/usr/bin/env bash
# carry.sh [--build] DIR: what tests/gpu/check.sh needs on a bare host (KVS_CARRY=DIR), made on a machine with apt-get: the
# Debian packages with headers and libraries of everything but MPI and HDF5. --build adds the finished programs, the CUDA
# module and the libraries they load (DIR/build; nvcc is needed, a GPU is not); check.sh builds only where they do not start.
#   KVS_BUILD   where --build builds (default build-carry)   KVS_ARCH  architectures with machine code (default 90)
set -euo pipefail
with_build=0
[ "${1:-}" = --build ] && { with_build=1; shift; }
dir=$(realpath -m "${1:?usage: carry.sh [--build] DIR}")
cd "$(dirname "$0")/../.."
. tests/gpu/common.sh
mkdir -p "$dir"

packages() {
    local names=(libjansson4 libjansson-dev libyaml-0-2 libyaml-dev libpcre2-8-0 libpcre2-16-0 libpcre2-32-0 libpcre2-posix3 libpcre2-dev
        libxxhash0 libxxhash-dev libcmocka0 libcmocka-dev pkgconf pkgconf-bin libpkgconf3)
    names+=($(apt-cache search --names-only '^libutf8proc[0-9]*$|^libutf8proc-dev$' | cut -d' ' -f1))
    (cd "$dir" && apt-get download "${names[@]}")
}

# Libraries beside the programs: all but what a host with nvcc has (the compiler's own, the driver's, the toolkit's).
libraries() {
    ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        grep -vE '/(libc|libm|libgcc_s|libstdc\+\+|libdl|librt|libpthread|libcuda|libcublas|libcublasLt|libnvrtc)\.so'
}

finished_build() {
    local build=${KVS_BUILD:-build-carry} p
    build_all "$build" kvs_cuda -DKVS_CUDA=on "-DKVS_CUDA_ARCH=${KVS_ARCH:-90}"
    rm -rf "$dir/build"
    mkdir -p "$dir/build/lib"
    for p in "${programs[@]}" libkvs_cuda.so; do strip -o "$dir/build/$p" "$build/$p"; done
    cp -L $(libraries "${programs[@]/#/$build/}" "$build/libkvs_cuda.so") "$dir/build/lib"
    stamp >"$dir/build/stamp"
}

packages
[ $with_build = 0 ] || finished_build
du -sh "$dir"
