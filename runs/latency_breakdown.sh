#!/bin/sh
# docs/end_to_end.md, "Where the time goes": phases of one OLMoE layer per policy at gamma 1, on two real ranks and on
# eight emulated devices. LOADS_DIR: as in layer_speedup.sh.
set -eu
cd "$(dirname "$0")/.."
loads="${LOADS_DIR:-../shared/data/expert_loads}/olmoe-1b-7b.json" out="${OUT:-out}/latency_breakdown"
[ -e "$loads" ] || { echo "$loads is not there: set LOADS_DIR (docs/loads-file.md)" >&2; exit 2; }
make .venv/.runtime
export OMP_NUM_THREADS=1
bench() { # name of the result, then options
    name=$1; shift
    .venv/bin/evenmoe bench layer --shape olmoe --loads "$loads" --layer 7 --tag github --gamma 1 "$@" --json "$out/$name.json"
}
bench 2-ranks --ranks 2 --tokens 2048 --repeats 5
bench 8-emulated --devices 8 --clock cpu --tokens 2048 --repeats 3
.venv/bin/python runs/speedups.py breakdown "$out"
