#!/bin/sh
# docs/simulate_trace.md, "Results": scheduling on real arrivals and real expert loads.
# LOADS is a folder with olmoe-1b-7b.json and mixtral-8x7b.json, the tables of allenai/OLMoE (scripts/routing_output);
# TRACES one with azure_llm_2023_conv.csv and azure_llm_2023_code.csv of Azure/AzurePublicDataset.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
loads="${LOADS:-../shared/data/expert_loads}" traces="${TRACES:-../shared/data/traces}" out="${OUT:-out}/simulate_trace"
conv="$traces/azure_llm_2023_conv.csv"

run() {
    name=$1
    shift
    echo "== $name"
    .venv/bin/evenmoe simulate trace --requests 1000 --strategy peak_excess auto --json "$out/$name.json" "$@"
}

run olmoe-conversations --arrivals "$conv" --loads "$loads/olmoe-1b-7b.json" --output-tokens 1
run olmoe-code --arrivals "$traces/azure_llm_2023_code.csv" --loads "$loads/olmoe-1b-7b.json" --output-tokens 1 --share 0.7
run olmoe-overload --arrivals "$conv" --loads "$loads/olmoe-1b-7b.json" --output-tokens 1 --share 1.1
run mixtral-conversations --arrivals "$conv" --loads "$loads/mixtral-8x7b.json" --output-tokens 1
run mixtral-told-each-request --arrivals "$conv" --loads "$loads/mixtral-8x7b.json" --output-tokens 1 --cosine 0.95
run olmoe-with-decode --arrivals "$conv" --loads "$loads/olmoe-1b-7b.json"
run olmoe-continuous --arrivals "$conv" --loads "$loads/olmoe-1b-7b.json" --output-tokens 1 --batching continuous \
    --token-budget 8192 --max-running 8
