#!/bin/sh
# docs/eval_tasks.md, "By environment variables": a model without a limit.
# PRETRAINED       a checkpoint's folder, or bundled:text
# OUTPUT_PATH      default: $PRETRAINED/baseline (of a bundled model: out/eval/<model>/baseline)
# BATCH_SIZE       rows per batch, default 16; the same as with a limit, or the two cannot be compared
# SUITE or TASKS   default: the suite language (of bundled:text: bundled)
# CUDA_VISIBLE_DEVICES, as everywhere. Further arguments go to `evenmoe eval run`.
set -eu
caller=$PWD
cd "$(dirname "$0")/.."
. runs/eval_variables.sh
find_model
evaluate "$root/baseline" --policy baseline "$@"
