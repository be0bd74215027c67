#!/bin/sh
# docs/results.md, "Policies on the bundled model": every policy and gamma, domains mixed on each virtual device.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
.venv/bin/evenmoe demo --out "${OUT:-out}/demo" "$@"
