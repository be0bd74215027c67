#!/bin/sh
# docs/eval_tasks.md, "All policies in one table": the bundled suite under every policy, as the paper's quality table.
# CAPACITIES: gammas, default 1.5. Further arguments go to `evenmoe eval run`. An interrupted table goes on.
set -eu
caller=$PWD
cd "$(dirname "$0")/.."
. runs/eval_variables.sh
out="${OUT:-out}/eval_table"
gammas=
for gamma in ${CAPACITIES:-1.5}; do gammas="$gammas --gamma $gamma"; done
model=bundled:text SUITE=${SUITE:-bundled} OUTPUT_PATH=
evaluate "$out" --policy baseline --policy expert_drop --policy token_drop --policy expanded_drop --policy fill $gammas "$@"
"$EVENMOE" eval compare "$out" --markdown --csv "$out/table.csv" --json "$out/table.json"
