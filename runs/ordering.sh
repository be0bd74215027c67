#!/bin/sh
# docs/results.md, "What an expert keeps": the paper's ordering at gamma 1 on six times the text of the demo.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
.venv/bin/evenmoe sweep bundled:text --windows 384 --gamma 1 --policy token_drop --policy token_drop:keep=random \
    --policy token_drop:keep=first --policy token_drop:keep=last --policy expanded_drop --policy fill \
    --out "${OUT:-out}/ordering" "$@"
