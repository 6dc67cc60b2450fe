#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a bundle of the simulated robot from nothing, in legs: on a machine that is lent for minutes, or overnight on one's own.
#
#   scripts/train_bundle.sh FOLDER
#
# Every call goes on where the last one ended, and ends after LEG minutes of training at the latest: exit status 75 says that it wants
# to be called again, 0 that FOLDER/bundle and FOLDER/report (by report_bundle.sh) are finished. To go on with a training on another machine, carry
# FOLDER/run/run.json and FOLDER/run/weights; the bags are made again from their seeds, alike.
#
#   RECIPE    of longscape train (default: gpu)
#   LEG       minutes (default: 9)
#   TRAIN     options of longscape generate for the training bags (default: --split benchmark-train)
#   HELDOUT   the same for those to score on (default: --split benchmark-heldout)
#   TRANSFER  the same for tasks that are not trained (default: --split benchmark-transfer)
#   INIT      a bundle to begin with (default: none)
#   DEVICE    auto, cpu or cuda (default: auto)
#   WINDOWS, FEWER, STEPS  see report_bundle.sh
#   PROBE     minutes to train the probe for the gripper's position (default: 2)
#   LAUNCH    how to start a training (default: nothing; "torchrun --nproc-per-node 4 --no-python" for four GPUs)
set -euo pipefail

folder=$1
recipe=${RECIPE:-gpu}
read -r -a train <<<"${TRAIN:---split benchmark-train}"
read -r -a heldout <<<"${HELDOUT:---split benchmark-heldout}"
read -r -a transfer <<<"${TRANSFER:---split benchmark-transfer}"
read -r -a launch <<<"${LAUNCH:-}"
mkdir -p "$folder"

longscape generate "${train[@]}" --output "$folder/train"
longscape generate "${heldout[@]}" --output "$folder/heldout"
longscape generate "${transfer[@]}" --output "$folder/transfer"

"${launch[@]}" longscape train --bags "$folder/train" --recipe "$recipe" --output "$folder/run" --device "${DEVICE:-auto}" \
    ${INIT:+--init "$INIT"} --leg "${LEG:-9}" --json "$folder/train.json"
if ! python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["finished"] != 1)' "$folder/train.json"; then
    echo "train_bundle: this leg is over, call again to go on." >&2
    exit 75
fi

longscape export "$folder/run" --output "$folder/bundle"
if [ ! -f "$folder/probe.onnx" ]; then
    size=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["image_size"][0])' "$folder/bundle/bundle.json")
    longscape probe --bags "$folder/train" --image-size "$size" --minutes "${PROBE:-2}" --output "$folder/probe.onnx"
fi
"$(dirname "$0")/report_bundle.sh" "$folder/run" "$folder/bundle" "$folder/probe.onnx" "$folder/heldout" "$folder/transfer" "$folder/report"
