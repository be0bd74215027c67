#!/bin/sh
# docs/timing.md, "Does dropping save?": the whole layer in one process beside transformers' fastest without dropping;
# OLMoE's dimensions, 4096 tokens, one thread, routing drawn from OLMoE's own counts on code. About 5 minutes.
# LOADS: those counts, published by allenai/OLMoE (docs/loads-file.md, "imports").
set -eu
cd "$(dirname "$0")/.."
LOADS=${LOADS:-../shared/data/expert_loads/olmoe-1b-7b.json}
[ -e "$LOADS" ] || { echo "$LOADS is not there: set LOADS to OLMoE's expert counts (docs/loads-file.md)" >&2; exit 2; }
make .venv/.runtime
OMP_NUM_THREADS=1 .venv/bin/evenmoe bench saving --shape olmoe --loads "$LOADS" --layer 7 --tag github --tokens 4096 --policy token_drop \
    --policy fill --json "${OUT:-out}/dropping_saves.json" "$@"
