#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that needs a GPU, in one go: what this machine has, the tests that are left out elsewhere, the engines, every backend verified
# against PyTorch, and everything timed side by side. It runs on a machine without a GPU too, and then says what was left out.
#
#   scripts/gpu_check.sh OUTPUT [BENCH OPTIONS ...]
#
# OUTPUT is made: doctor.json, tests.txt, engines/, verify.json, bench/. BUNDLE names another bundle than the one that ships; PYTHON the
# interpreter of the environment that has longscape_ros with its extras test and tensorrt-rtx, tensorrt or gpu.
set -euo pipefail
cd "$(dirname "$0")/.."

output=$1
shift
python=${PYTHON:-.venv-test/bin/python}
bundle=(${BUNDLE:+--bundle "$BUNDLE"})
mkdir -p "$output"

longscape() { "$python" -m longscape_ros "$@"; }

failed=()
step() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

step doctor longscape doctor "${bundle[@]}" --json "$output/doctor.json"
step tests sh -c "'$python' -m pytest -rs tests/runtime/test_cuda.py tests/runtime/test_gpu_backend.py > '$output/tests.txt'; status=\$?
    tail -n 12 '$output/tests.txt'; exit \$status"
if [ -e /dev/nvidiactl ] || [ -e /dev/nvhost-gpu ]; then
    step engines longscape export --tensorrt "${bundle[@]}" --output "$output/engines" --json "$output/engines.json"
else
    echo "== engines: left out, this machine has no NVIDIA GPU"
fi
step verify longscape export --verify "${bundle[@]}" --json "$output/verify.json"
step bench longscape bench "${bundle[@]}" --report "$output/bench" --json "$output/bench.json" "$@"

if [ ${#failed[@]} != 0 ]; then
    echo "gpu_check: these failed: ${failed[*]}" >&2
    exit 1
fi
