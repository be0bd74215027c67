#!/bin/sh
# docs/results.md, "Who shares a device": the same windows and batches, rows mixed or sorted by domain.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
for mix in mixed by-domain; do
    .venv/bin/evenmoe sweep bundled:text --mix "$mix" --policy token_drop --policy expanded_drop --policy fill \
        --gamma 2 --gamma 1.5 --gamma 1 --out "${OUT:-out}/mix-$mix" "$@"
done
