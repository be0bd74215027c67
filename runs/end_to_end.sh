#!/bin/sh
# docs/end_to_end.md, "End to end": models of two layers (Mixtral: one) on emulated devices at the paper's gammas beside
# the paper's speedups, one with rows enough for policies to act in decode, and two real ranks.
# LOADS_DIR: as in layer_speedup.sh.
set -eu
cd "$(dirname "$0")/.."
loads="${LOADS_DIR:-../shared/data/expert_loads}/olmoe-1b-7b.json" out="${OUT:-out}/end_to_end"
[ -e "$loads" ] || { echo "$loads is not there: set LOADS_DIR (docs/loads-file.md)" >&2; exit 2; }
make .venv/.runtime
export OMP_NUM_THREADS=1
bench() { # name of the result, model, then options
    name=$1; shift
    .venv/bin/evenmoe bench model "$@" --json "$out/$name.json"
}
emulated="--clock cpu --batch-size 1 --prompt-tokens 128 --new-tokens 4"
bench "olmoe on 8" olmoe --skew 5.6 --gamma 2 --gamma 1 $emulated --repeats 2
bench "olmoe on 8@16 short rows each" olmoe --skew 5.6 --gamma 1 $emulated --batch-size 16 --prompt-tokens 8 --repeats 2
bench "deepseek-v2-lite on 8" deepseek-v2-lite --skew 5 --gamma 2 $emulated --repeats 2
bench "qwen1.5-moe on 6" qwen1.5-moe --skew 3 --gamma 1.5 $emulated --repeats 2
for devices in 4 8; do
    bench "mixtral on $devices" mixtral --skew 3 --devices $devices --layers 1 --gamma 1.5 $emulated \
        --prompt-tokens $((512 / devices)) --repeats 1
done
bench "olmoe@github, two ranks" olmoe --ranks 2 --loads "$loads" --layer 7 --tag github --gamma 1 \
    --batch-size 2 --prompt-tokens 256 --new-tokens 8 --repeats 3
bench "bundled text@two ranks" bundled:text --ranks 2 --gamma 1 --batch-size 8 --prompt-tokens 256 --new-tokens 16
.venv/bin/python runs/speedups.py model "$out"
