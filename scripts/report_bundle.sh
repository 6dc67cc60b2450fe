#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The full table behind a bundle of the simulated robot, from the run that it was made of.
#
#   scripts/report_bundle.sh RUN BUNDLE PROBE HELDOUT TRANSFER OUTPUT
#
# HELDOUT are bags of tasks that were trained, TRANSFER of tasks that were not. What is made in OUTPUT: heldout/ and transfer/ (tables, curves,
# films), steps/ (JSON: the denoiser before distillation and its student at other numbers of sampling steps), compare.* (other chunks and
# other experts), curve.* (the learning curve). The figures of heldout/ go into the bundle too. What is there already is kept.
#
#   WINDOWS   most places to predict from in HELDOUT and in TRANSFER (default: 400)
#   FEWER     the same for what is predicted many times over, steps and compare; 0: they are left out (default: 100)
#   STEPS     what to score in steps/ (default: "teacher_4 teacher_2 teacher_1 student_1")
set -euo pipefail

run=$1 bundle=$2 probe=$3 heldout=$4 transfer=$5 output=$6
fewer=${FEWER:-100}
read -r -a steps <<<"${STEPS-teacher_4 teacher_2 teacher_1 student_1}"
mkdir -p "$output"

# In single precision: what was measured on one machine is to be compared with another.
score() {
    longscape eval --probe "$probe" --precision fp32 "$@"
}

if [ ! -f "$output/heldout/eval.json" ]; then
    score --bundle "$bundle" --bags "$heldout" --windows "${WINDOWS:-400}" --report "$output/heldout" --update-bundle
fi
if [ ! -f "$output/transfer/eval.json" ]; then
    score --bundle "$bundle" --bags "$transfer" --windows "${WINDOWS:-400}" --report "$output/transfer"
fi
if [ "$fewer" != 0 ]; then
    temporary=$(mktemp -d)
    trap 'rm -rf "$temporary"' EXIT
    mkdir -p "$output/steps"
    for name in "${steps[@]}"; do
        [ -f "$output/steps/$name.json" ] && continue
        teacher=()
        [ "${name%_*}" = teacher ] && teacher=(--teacher)
        longscape export "$run" --output "$temporary/$name" --steps "${name#*_}" "${teacher[@]}"
        score --bundle "$temporary/$name" --bags "$heldout" --windows "$fewer" --json "$output/steps/$name.json"
    done
    if [ ! -f "$output/compare.json" ]; then
        longscape compare --bundle "$bundle" --bags "$heldout" --windows "$fewer" --probe "$probe" --precision fp32 \
            --output "$output/compare.json" --table "$output/compare.md" --plot "$output/compare.png"
    fi
fi
longscape curve "$run" --plot "$output/curve.png" --json "$output/curve.json"
