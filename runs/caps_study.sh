#!/bin/sh
# docs/caps_study.md: CAPS's study beside its published figures, the steady state, and what passing over costs.
# OUT is where results go. The fit of the workload takes longest; FIT= leaves it out.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
out="${OUT:-out}/caps_study" fit="${FIT-120}"
export OMP_NUM_THREADS=1
.venv/bin/evenmoe simulate paper --out "$out"
.venv/bin/python runs/caps_passing_over.py --jobs 2
.venv/bin/python runs/caps_passing_over.py --pattern bursty --bounds 1000 6 --jobs 2
if [ -n "$fit" ]; then .venv/bin/python runs/caps_fit.py --samples "$fit" --jobs 2 --json "$out/fit.json"; fi
