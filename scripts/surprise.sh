#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How many disturbances of the simulated arm a bundle notices within half a second, and how often it gives a false alarm.
#
#   scripts/surprise.sh BUNDLE TRAIN HELDOUT DISTURBED OUTPUT
#
# TRAIN and HELDOUT are recordings that nothing disturbs (longscape generate --split ...). DISTURBED is filled with held-out episodes that are
# disturbed once each; what is there already is kept. OUTPUT gets surprise.md and surprise.json.
#
#   TASKS      tasks whose objects can be disturbed (default: twelve of the benchmark's)
#   GRIPPING   tasks in which something is gripped (default: eight)
#   SEEDS      episodes per task and disturbance (default: 1)
#   EPISODES   most undisturbed recordings of TRAIN and of HELDOUT (default: 90)
#   SECONDS_EACH   most of an undisturbed recording to watch (default: 10)
#   EVERY      images from one prediction to the next (default: 2)
set -euo pipefail

bundle=$1 train=$2 heldout=$3 disturbed=$4 output=$5
tasks=${TASKS:-push,pick-place,drawer-open,door-open,soccer,plate-slide,window-open,sweep,coffee-push,faucet-open,handle-press,stick-push}
gripping=${GRIPPING:-push,pick-place,coffee-push,soccer,sweep,shelf-place,basketball,push-back}
mkdir -p "$output"

disturb() {
    longscape generate --seed 9000 --episodes "${SEEDS:-1}" --output "$disturbed" --tasks "$1" --frames "$2" --disturb "$3"
}

for kind in block:0.5 bump:1 move:0.1 move:0.03; do
    disturb "$tasks" 100 "$kind"
done
disturb "$gripping" 200 grip:1
longscape surprise --bundle "$bundle" --train "$train" --heldout "$heldout" --disturbed "$disturbed" --episodes "${EPISODES:-90}" \
    --seconds "${SECONDS_EACH:-10}" --every "${EVERY:-2}" --table "$output/surprise.md" --json "$output/surprise.json"
