# Sourced by the farm tests: KVSWEEP and H5SAME are programs, DIR an empty folder, HERE this folder.
set -u
KVSWEEP=$1 H5SAME=$2
HERE=$(cd "$(dirname "$0")" && pwd)
DIR=$(mktemp -d "${TMPDIR:-/tmp}/kvsweep-farm-XXXXXX")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_odls_base_sigkill_timeout=0 OMP_NUM_THREADS=1
MPIRUN=${MPIRUN-$(command -v mpirun || true)} # empty: a build without MPI
WATCH=

die() {
    echo "FAIL: $*" >&2
    exit 1
}

cleanup() {
    [ -n "$WATCH" ] && kill "$WATCH" 2>/dev/null
    rm -rf "$DIR"
}
trap cleanup EXIT

# runs the farm configuration on $1 ranks into $2; further arguments go to kvsweep
farm() {
    local n=$1 out=$2
    shift 2
    if [ "$n" = alone ]; then
        timeout -k 5 120 "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" "$@"
    else
        timeout -k 5 120 "$MPIRUN" -n "$n" "$KVSWEEP" run -q "$HERE/farm.yaml" -o "$out" "$@"
    fi
}

# $1 and $2 hold the same content
same() {
    "$H5SAME" "$1" "$2" || die "$1 and $2 differ"
}

# Opens file $1 with h5dump over and over as soon as it exists; a failure is written to $DIR/h5dump.failed.
watch_file() {
    command -v h5dump >/dev/null || return 0
    (
        while :; do
            if [ -e "$1" ] && ! HDF5_USE_FILE_LOCKING=FALSE h5dump -H "$1" >"$DIR/h5dump.out" 2>&1; then
                cp "$DIR/h5dump.out" "$DIR/h5dump.failed"
            fi
            sleep 0.2
        done
    ) &
    WATCH=$!
}
unwatch() {
    [ -n "$WATCH" ] && kill "$WATCH" 2>/dev/null && wait "$WATCH" 2>/dev/null
    WATCH=
    [ ! -e "$DIR/h5dump.failed" ] || die "h5dump could not open the file: $(head -3 "$DIR/h5dump.failed")"
}
