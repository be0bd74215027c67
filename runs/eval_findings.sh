#!/bin/sh
# docs/eval_findings.md: the paper's findings on the bundled text model, by the bundled suite (13 evaluations) and by
# next-token accuracy (the sweeps of ordering.sh and routing_on_bundled.sh). LIMIT: the first items of each task, default all.
# Interrupted, it goes on.
set -eu
cd "$(dirname "$0")/.."
. runs/eval_variables.sh
find_evenmoe
out="${OUT:-out}/eval_findings"
export OMP_NUM_THREADS=1
suite() { # name of the folder, then policies and gammas
    name=$1; shift
    "$EVENMOE" eval run bundled:text --suite bundled ${LIMIT:+--limit "$LIMIT"} --out "$out/$name" "$@"
}
suite gamma1 --policy baseline --policy token_drop --policy token_drop:keep=random --policy token_drop:keep=first \
    --policy token_drop:level=device --policy expanded_drop --policy fill --policy expert_drop:fraction=0.75 \
    --policy expert_drop:fraction=0.875 --gamma 1
suite gamma1.5 --policy token_drop --gamma 1.5
suite gamma2 --policy token_drop --policy expanded_drop --policy fill --gamma 2
"$EVENMOE" eval compare "$out" --markdown --json "$out/table.json"
sh runs/ordering.sh
sh runs/routing_on_bundled.sh
"$(dirname "$EVENMOE")/python" runs/eval_findings.py --evaluations "$out" --sweep "${OUT:-out}/ordering" --sweep "${OUT:-out}/demo"
