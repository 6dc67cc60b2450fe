#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with this package in it; the system's part of it is installed too where that is allowed.
#
#   scripts/setup.sh FOLDER EXTRA [CONSTRAINTS]
#
# FOLDER is made, or brought up to date; FOLDER/.complete says that it is finished. EXTRA is one of setup.py's. PYTHON names the
# interpreter; without it the newest of 3.10 to 3.13 that is found is taken, the system's python3 first. pip's own variables hold:
# PIP_EXTRA_INDEX_URL with PyTorch's index of CPU builds saves gigabytes of CUDA where torch is installed from the net.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1
extra=$2
constraints=${3:-}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "setup: $*"
    exit 1
}

# Whether $1 is a Python that all dependencies have wheels for.
suits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if suits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "found no Python 3.10 to 3.13 (python3 is $(python3 --version 2>&1 || true)). On Debian and Ubuntu: apt-get install -y python3 python3-venv;" \
        "or name one: make ... PYTHON=/path/to/python3.12"
}

# Whether the dynamic linker finds one of the libraries.
has_library() {
    local cache name
    cache=$( (ldconfig -p || /sbin/ldconfig -p) 2>/dev/null) || return 0 # no such list here: the program will tell
    for name in "$@"; do
        [[ $cache == *"$name"* ]] && return 0
    done
    return 1
}

# Names of Debian packages that are missing, one a line.
missing_packages() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || "$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")'
    has_library libEGL.so.1 libOSMesa.so || printf '%s\n' libegl1 libgl1 libgl1-mesa-dri
}

# Installs Debian packages, or says how.
install_packages() {
    local become=()
    local line="apt-get update && apt-get install -y --no-install-recommends $*"
    command -v apt-get >/dev/null || fail "these are missing here, under the names that Debian gives them: $*"
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "some of the system's packages are missing. Install them, then run the same command again:
    sudo sh -c '$line'"
        become=(sudo -n)
    fi
    say "Installing the system's packages: $*"
    "${become[@]}" apt-get update -qq && "${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        fail "that did not work. Install them by hand, then run the same command again:
    $line"
}

python=$(find_python)
mapfile -t packages < <(missing_packages)
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"

if ! [ -x "$folder/bin/python" ] || ! suits "$folder/bin/python"; then
    say "Making $folder with $("$python" --version)"
    "$python" -m venv --clear "$folder"
fi
# Older resolvers search for minutes what newer ones find at once.
"$folder/bin/python" -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (23, 1))' ||
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
options=()
[ -z "$constraints" ] || options+=(--constraint "$constraints")
say "Installing longscape_ros[$extra] and what it needs into $folder; this takes a minute or two the first time"
"$folder/bin/python" -m pip install --disable-pip-version-check --quiet --progress-bar on ${options[@]+"${options[@]}"} --editable ".[$extra]"
touch "$folder/.complete"
