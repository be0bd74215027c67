#!/bin/sh
# docs/serving_robustness.md, "A noisy neighbour": attackers and a victim on the running server, with each isolation. About 3 minutes.
# SERVE_PYTHON: a Python that has vllm and evenmoe; without it, the environment of make test-serve.
set -eu
cd "$(dirname "$0")/.."
out="${OUT:-out}"
[ -n "${SERVE_PYTHON:-}" ] || make OUT="$out" "$out/serve_env/.ready"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
mkdir -p "$out"
"${SERVE_PYTHON:-$out/serve_env/bin/python}" runs/serve_noisy_neighbour.py --json "$out/serve_noisy_neighbour.json" "$@"
