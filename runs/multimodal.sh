#!/bin/sh
# docs/multimodal.md: the modality policies, Token Drop, Expanded Drop and Fill on the bundled vision-language model,
# MACS at their peak load, the loads split into image and text tokens. About 12 minutes on one core; goes on where it
# was interrupted.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
out="${OUT:-out}/multimodal"
mkdir -p "$out"
[ -s "$out/labels.json" ] || .venv/bin/evenmoe calibrate-modality bundled:vlm --out "$out/labels.json"
.venv/bin/python runs/multimodal_study.py --out "$out" --labels "$out/labels.json" "$@"
