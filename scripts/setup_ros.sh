#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a virtual environment with the real rclpy of ROS 2 Jazzy in it, from PyPI, and builds this package's workspace there: for tests
# on hosts without ROS. Robots need none of it.
#
#   scripts/setup_ros.sh FOLDER
#
# FOLDER is made, or brought up to date; FOLDER/.complete says that it is finished. Source FOLDER/setup.bash to use it.
# The environment has to be one of its own: where rclpy can be imported, the embedded graph steps back.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$1

fail() {
    printf 'setup_ros: %s\n' "$*" >&2
    exit 1
}

# Whether there are wheels for $1, and headers to build message packages with.
suits() {
    "$1" -c 'import os, sys, sysconfig, venv
headers = os.path.join(sysconfig.get_paths()["include"], "Python.h")
sys.exit(not ((3, 10) <= sys.version_info < (3, 13) and os.path.isfile(headers)))' 2>/dev/null
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "PyPI has ROS for Linux on x86-64 only, this is $(uname -sm)"
for program in cmake g++ make; do
    command -v "$program" >/dev/null || fail "$program is missing. On Debian and Ubuntu: apt-get install -y cmake g++ make"
done
python=
for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if suits "$candidate"; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "found no Python 3.10 to 3.12 with its headers. On Debian and Ubuntu: apt-get install -y python3-venv python3-dev"

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
folder=$(cd "$folder" && pwd)
options=(--disable-pip-version-check --quiet)
"$folder/bin/python" -m pip install "${options[@]}" --requirement constraints/ros.txt --editable .

# The wheels name the places of Python's and NumPy's headers on the machine that made them.
"$folder/bin/python" - "$folder" <<'PYTHON'
import re, sys, sysconfig
from pathlib import Path
import numpy
for path in Path(sys.argv[1], "share").rglob("*.cmake"):
    old = path.read_text(encoding="utf-8")
    new = re.sub(r"/opt/python/[^;\" ]*/numpy/_core/include", numpy.get_include(), old)
    new = re.sub(r"/opt/python/[^;\" ]*/include/python3\.\d+", sysconfig.get_paths()["include"], new)
    if new != old:
        path.write_text(new, encoding="utf-8")
PYTHON

# The documented workspace, with this checkout in it.
mkdir -p "$folder/ws/src"
ln -sfn "$PWD" "$folder/ws/src/longscape_ros"
ln -sfn longscape_ros/longscape_msgs "$folder/ws/src/longscape_msgs"
cat >"$folder/setup.bash" <<SETUP
# Source this file for ROS 2 Jazzy from PyPI, with longscape_ros and longscape_msgs.
export PATH="$folder/bin:\$PATH" CMAKE_PREFIX_PATH="$folder"
export AMENT_PREFIX_PATH="$folder"
[ ! -f "$folder/ws/install/setup.bash" ] || . "$folder/ws/install/setup.bash"
case ":\$AMENT_PREFIX_PATH:" in *":$folder:"*) ;; *) AMENT_PREFIX_PATH="\$AMENT_PREFIX_PATH:$folder" ;; esac
SETUP
(
    set +u
    rm -f "$folder/ws/install/setup.bash"
    . "$folder/setup.bash"
    cd "$folder/ws"
    colcon build --symlink-install >"$folder/build.log" 2>&1 || { tail -n 40 "$folder/build.log" >&2; exit 1; }
) || fail "the workspace cannot be built, see above and $folder/build.log"
touch "$folder/.complete"
