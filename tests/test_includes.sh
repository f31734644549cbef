#!/usr/bin/env bash
# The arrows between folders and the owners of foreign headers (DESIGN: each has one), read off the #include lines.
set -u
cd "$(dirname "$0")/.."
bad=0

# check FOLDER ALLOWED…: own headers that files of the folder may include, as prefixes.
check() {
    local folder=$1 line file header ok prefix
    shift
    while IFS= read -r line; do
        file=${line%%:*}
        header=$(sed 's/.*#include "\([^"]*\)".*/\1/' <<<"$line")
        ok=no
        for prefix in "$@"; do
            [[ $header == "$prefix"* ]] && ok=yes
        done
        [ $ok = yes ] || { echo "$file includes $header; $folder may include: $*"; bad=1; }
    done < <(grep -rnH --include='*.c' --include='*.h' --include='*.cu' --include='*.def' '^#include "' "$folder")
}

# owner HEADER FILE…: the only files that may include a foreign header (shell patterns).
owner() {
    local header=$1 file ok pattern
    shift
    while IFS= read -r file; do
        ok=no
        for pattern in "$@"; do
            # shellcheck disable=SC2053
            [[ $file == $pattern ]] && ok=yes
        done
        [ $ok = yes ] || { echo "$file includes <$header>, which belongs to $*"; bad=1; }
    done < <(grep -rlE --include='*.c' --include='*.h' --include='*.cu' "^#include [<\"]$header[>\"]" src kernels sweep hdf5io)
}

check src/base base/
check kernels base/ kernels/
check src/tok base/ tok/
check src/task base/ task/
check src/kv base/ kernels/ops.h kv/
check src/model base/ kernels/ kv/ model/
check src/prompt base/ kernels/ops.h kv/ model/ tok/ prompt/
check src/run base/ kernels/ kv/ model/ tok/ task/ prompt/ run/
check hdf5io base/ kernels/ops.h kv/kv.h run/record.h run/record.def task/task.h task/longbench.def hdf5io/
check sweep base/ kernels/ kv/ model/ prompt/prompt.h tok/ task/ run/ hdf5io/ sweep/
# A method's file sees its tools and base/ only; who merely uses caches sees no hooks.
for method in $(sed -n 's/^KV_METHOD(\(.*\))$/\1/p' src/kv/methods.def) infllm_chunk kept; do
    case $method in
        full | flexgen_upstream) continue ;; # in kv.c and flexgen.c
    esac
    check "src/kv/$method.c" base/ kv/method.h kv/kv.h kv/kept.h kv/window.h kv/infllm.h kv/llmlingua2.h
done
if grep -rlE '^#include "kv/(method|hold|kept|window|infllm)\.h"' src/model src/prompt src/run hdf5io sweep; then
    echo "kv/method.h and what it serves are for src/kv alone; others include kv/kv.h"
    bad=1
fi
# Backends have properties; nobody outside kernels/ asks for their names.
if grep -rnE 'strcmp\([^,]*(ops|[^a-z]o|table)->name,|"(cuda|cpu|ref)"\) *[!=]= *0' src hdf5io sweep --include='*.c'; then
    echo "a backend is told by its name; ask for a property of struct ops"
    bad=1
fi

owner hdf5.h 'hdf5io/*'
owner hdf5_hl.h 'hdf5io/*'
owner mpi.h sweep/link.c kernels/comm_mpi.c
owner nccl.h kernels/comm_nccl.cu
owner 'cuda[a-z_]*.h' 'kernels/cuda/*'
owner 'cublas[A-Za-z_]*.h' 'kernels/cuda/*'
owner yaml.h sweep/node.c
owner dnnl.h kernels/cpu/onednn.c
owner 'pcre2.h' 'src/tok/*'

# The engine names no method.
if grep -nE '"(full|kivi|streaming|h2o|infllm|flexgen)"' src/run/engine.c; then
    echo "src/run/engine.c names a method"
    bad=1
fi
# The environment is read in one place.
if grep -rnE '\bgetenv *\(' src kernels hdf5io sweep --include='*.c' --include='*.cu' | grep -v '^sweep/main.c'; then
    echo "getenv outside sweep/main.c"
    bad=1
fi
[ $bad = 0 ] && echo "includes: as designed"
exit $bad
