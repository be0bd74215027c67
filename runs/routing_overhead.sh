#!/bin/sh
# docs/results.md, "Routing overhead": each policy's time beside a plain top-k in the same run, one thread.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
.venv/bin/evenmoe bench routing --repeats 100 --json "${OUT:-out}/bench-routing.json" "$@"
