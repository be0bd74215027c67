#!/bin/sh
# docs/end_to_end.md, "One layer": speedups of one MoE layer on emulated devices, each shape in the paper's layout,
# beside the paper's; on loads as skewed as the paper says theirs are, and on published loads of OLMoE and Mixtral.
# LOADS_DIR: a folder with olmoe-1b-7b.json and mixtral-8x7b.json, the tables of allenai/OLMoE (docs/loads-file.md).
set -eu
cd "$(dirname "$0")/.."
loads="${LOADS_DIR:-../shared/data/expert_loads}" out="${OUT:-out}/layer_speedup"
for name in olmoe-1b-7b mixtral-8x7b; do
    [ -e "$loads/$name.json" ] || { echo "$loads/$name.json is not there: set LOADS_DIR (docs/loads-file.md)" >&2; exit 2; }
done
make .venv/.runtime
export OMP_NUM_THREADS=1
bench() { # name of the result, then options
    name=$1; shift
    .venv/bin/evenmoe bench layer --clock cpu "$@" --json "$out/$name.json"
}
bench olmoe --shape olmoe --skew 5.6 --tokens 2048 --repeats 3
bench deepseek-v2-lite --shape deepseek-v2-lite --skew 5 --tokens 1024 --repeats 3
bench qwen1.5-moe --shape qwen1.5-moe --skew 3 --tokens 1024 --repeats 3
bench mixtral --shape mixtral --skew 3 --tokens 512 --repeats 1
for domain in arxiv book c4 github wikipedia; do
    bench "olmoe@$domain" --shape olmoe --loads "$loads/olmoe-1b-7b.json" --layer 7 --tag "$domain" --tokens 1024 --repeats 1
done
bench mixtral@github --shape mixtral --loads "$loads/mixtral-8x7b.json" --layer 15 --tag github --tokens 512 --repeats 2 \
    --policy token_drop --policy expanded_drop
.venv/bin/python runs/speedups.py layer "$out"
