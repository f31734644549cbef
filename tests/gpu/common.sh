# shellcheck shell=bash
# Sourced by check.sh and carry.sh, in the project's folder: what a GPU host needs built, and how.
programs=(kvsweep check_ops gpu_matrix gpu_steps gpu_attend gpu_decode gpu_group)

# build_all BUILD MODULE [OPTION…]: the programs and the CUDA module (kvs_cuda), or its twin on fibers (kvs_cuda_shim
# kvs_nccl_shim). Neither MPI nor HDF5 nor oneDNN: none of them says anything about a GPU, and hosts with one lack them.
build_all() {
    local build=$1 module=$2 generator='Unix Makefiles'
    shift 2
    command -v ninja >/dev/null && generator=Ninja
    [ -s "$build/CMakeCache.txt" ] && generator=$(sed -n 's/^CMAKE_GENERATOR:INTERNAL=//p' "$build/CMakeCache.txt")
    # shellcheck disable=SC2086
    cmake -S . -B "$build" -G "$generator" -DKVS_MPI=off -DKVS_HDF5=off -DKVS_ONEDNN=off -DKVS_TESTS=ON -DKVS_WERROR=OFF \
        -DCMAKE_C_FLAGS_RELEASE=-O2 "$@" &&
        cmake --build "$build" -j "$(nproc)" --target "${programs[@]}" $module && echo "built: ${programs[*]} $module"
}

# One word for the sources that go into the programs: a carried build of other sources is not used.
stamp() {
    find CMakeLists.txt kernels src hdf5io sweep tests -type f \( -name '*.[ch]' -o -name '*.cu' -o -name '*.def' -o -name CMakeLists.txt \) -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}
