#!/usr/bin/env bash
# carry.sh DIR: fetches the Debian packages that tests/gpu/check.sh needs on a bare host (KVS_CARRY=DIR), on a machine
# with apt-get: headers and libraries of everything but MPI and HDF5.
set -euo pipefail
dir=${1:?usage: carry.sh DIR}
mkdir -p "$dir"
cd "$dir"
names=(libjansson4 libjansson-dev libyaml-0-2 libyaml-dev libpcre2-8-0 libpcre2-16-0 libpcre2-32-0 libpcre2-posix3 libpcre2-dev
    libxxhash0 libxxhash-dev libcmocka0 libcmocka-dev pkgconf pkgconf-bin libpkgconf3)
names+=($(apt-cache search --names-only '^libutf8proc[0-9]*$|^libutf8proc-dev$' | cut -d' ' -f1))
apt-get download "${names[@]}"
du -sh .
