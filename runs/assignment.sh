#!/bin/sh
# docs/assignment.md: which device's share each request joins. A token prior is learned on one half of the held-out text,
# everything is measured on the other half, in batches whose requests come domain by domain. About 20 minutes.
set -eu
cd "$(dirname "$0")/.."
make .venv/.runtime
out="${OUT:-out}/assignment"
mkdir -p "$out/first" "$out/second"
.venv/bin/python - "$out" <<'PY'
import sys
from pathlib import Path

from evenmoe.evaluation.prediction import halves
from evenmoe.evaluation.texts import heldout_texts

for name, texts in zip(("first", "second"), halves(heldout_texts()), strict=True):
    for domain, text in texts.items():
        Path(sys.argv[1], name, f"{domain}.txt").write_text(text, encoding="utf-8")
PY
texts() { for file in "$out/$1"/*.txt; do printf ' %s %s' "$2" "$file"; done; }
measured="$(texts second --text)"
.venv/bin/evenmoe profile bundled:text $measured $(texts first --learn-text) --predictor token-prior --out "$out/prior"
prior="$out/prior/token_prior.npz"
for batch in 32 64 128; do
    gammas="--gamma 1.5"
    [ "$batch" = 64 ] && gammas="--gamma 2 --gamma 1.5 --gamma 1"
    for method in arrival random predicted true; do
        case $method in
            predicted) given="--assign balanced --prior $prior" ;;
            true) given="--assign balanced --loads-from true" ;;
            *) given="--assign $method" ;;
        esac
        .venv/bin/evenmoe sweep bundled:text $measured --windows 256 --batch-size "$batch" --mix by-domain $given \
            --policy token_drop --policy fill $gammas --out "$out/$batch-$method" "$@"
        .venv/bin/evenmoe report "$out/$batch-$method" --markdown
    done
done
# batches of 32 again, with a second copy of hot experts
.venv/bin/evenmoe profile bundled:text $(texts first --text) --out "$out/profile"
.venv/bin/evenmoe place --loads "$out/profile/loads.json" --devices 8 --replicas 8 --method vector_replicated \
    --out "$out/copies.json"
for method in arrival predicted; do
    given="--assign arrival"
    [ "$method" = predicted ] && given="--assign balanced --prior $prior"
    folder="$out/32-copies-$method"
    .venv/bin/evenmoe sweep bundled:text $measured --windows 256 --batch-size 32 --mix by-domain $given \
        --placement "$out/copies.json" --policy token_drop --policy fill --gamma 1.5 --out "$folder" "$@"
    .venv/bin/evenmoe report "$folder" --markdown
done
.venv/bin/python runs/assignment_floor.py --prior "$prior" --text "$out/second"/*.txt
