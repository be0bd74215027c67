#!/bin/sh
# docs/live.md, "A run": the scheduler on the real bundled model, and the simulator's errors.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
export OMP_NUM_THREADS=1
for share in 0.9 1.2; do
    .venv/bin/evenmoe simulate live --clock cpu --share "$share" --json "${OUT:-out}/live-$share.json"
done
