#!/bin/sh
# docs/serving_study.md: first come first served against expert-aware scheduling, routing off and on, on a real server.
# About 15 minutes.
# SERVE_PYTHON: a Python that has vllm and evenmoe; without it, the environment of make test-serve.
set -eu
cd "$(dirname "$0")/.."
out="${OUT:-out}"
[ -n "${SERVE_PYTHON:-}" ] || make OUT="$out" "$out/serve_env/.ready"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
"${SERVE_PYTHON:-$out/serve_env/bin/python}" runs/serve_study.py --out "$out/serve_study" "$@"
