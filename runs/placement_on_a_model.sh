#!/bin/sh
# docs/results.md, "Placement first": the bundled model's experts are placed by the loads of one half of the held-out text,
# and every figure is of the other half. About 3 minutes.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
out="${OUT:-out}/placement_on_a_model"
mkdir -p "$out/first" "$out/second"
.venv/bin/python - "$out" <<'PY'
import sys
from pathlib import Path

from evenmoe.evaluation.texts import heldout_texts

for domain, text in heldout_texts().items():
    middle = text.rindex("\n", 0, len(text) // 2) + 1
    Path(sys.argv[1], "first", f"{domain}.txt").write_text(text[:middle], encoding="utf-8")
    Path(sys.argv[1], "second", f"{domain}.txt").write_text(text[middle:], encoding="utf-8")
PY
texts() { for file in "$out/$1"/*.txt; do printf ' --text %s' "$file"; done; }
.venv/bin/evenmoe profile bundled:text $(texts first) --out "$out/profile"
.venv/bin/evenmoe place --loads "$out/profile/loads.json" --devices 8 --out "$out/vector.json" --method vector \
    --json "$out/place.json"
.venv/bin/evenmoe place --loads "$out/profile/loads.json" --devices 8 --out "$out/copies.json" --replicas 8 \
    --method vector_replicated
for mix in mixed by-domain; do
    for placement in contiguous vector copies; do
        given=""
        [ "$placement" = contiguous ] || given="--placement $out/$placement.json"
        .venv/bin/evenmoe sweep bundled:text $(texts second) --mix "$mix" $given --devices 8 --gamma 1.5 --gamma 1 \
            --policy token_drop:level=device --policy token_drop --out "$out/$mix-$placement"
        .venv/bin/evenmoe report "$out/$mix-$placement" --markdown
    done
done
