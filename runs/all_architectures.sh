#!/bin/sh
# docs/results.md, "Architectures": a tiny random model of each, verified.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
.venv/bin/evenmoe models --check --json "${OUT:-out}/models.json" "$@"
