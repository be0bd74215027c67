#!/bin/sh
# docs/results.md, "The price of isolation": what protection from neighbours costs, at several limits.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
for isolation in batch request strict; do
    .venv/bin/evenmoe sweep bundled:text --isolation "$isolation" --policy token_drop --policy fill \
        --gamma 2 --gamma 1.5 --gamma 1 --out "${OUT:-out}/isolation-$isolation" "$@"
done
