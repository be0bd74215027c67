#!/bin/sh
# docs/placement.md, "Measured": every method on published loads, seen and held out, and under bursty traffic.
# LOADS is a folder with olmoe-1b-7b.json and mixtral-8x7b.json, the tables of allenai/OLMoE (scripts/routing_output).
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
loads="${LOADS:-../shared/data/expert_loads}" out="${OUT:-out}/placement"
for devices in 4 8; do
    for name in olmoe-1b-7b mixtral-8x7b; do
        .venv/bin/evenmoe place --loads "$loads/$name.json" --devices "$devices" --json "$out/$name-$devices.json" \
            --out "$out/$name-$devices.placement.json"
    done
done
.venv/bin/python runs/placement_traffic.py --loads "$loads/olmoe-1b-7b.json" --json "$out/traffic.json"
.venv/bin/python runs/placement_noise.py --loads "$loads/olmoe-1b-7b.json"
.venv/bin/python runs/placement_times.py
