#!/bin/sh
# docs/serving_study.md, "5,000 requests": a long run at the highest rate that the server keeps up with, and 500 at twice
# that. About 10 minutes.
# SERVE_PYTHON: a Python that has vllm and evenmoe; without it, the environment of make test-serve.
set -eu
cd "$(dirname "$0")/.."
out="${OUT:-out}"
[ -n "${SERVE_PYTHON:-}" ] || make OUT="$out" "$out/serve_env/.ready"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
"${SERVE_PYTHON:-$out/serve_env/bin/python}" runs/serve_soak.py --out "$out/serve_soak" "$@"
