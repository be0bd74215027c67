#!/bin/sh
# docs/results.md, "Scope and level": local or global capacity, limits per expert or per device.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
for scope in local global; do
    for level in expert device; do
        .venv/bin/evenmoe sweep bundled:text --scope "$scope" --level "$level" --policy token_drop --policy fill \
            --gamma 2 --gamma 1.5 --gamma 1 --out "${OUT:-out}/$scope-$level" "$@"
    done
done
