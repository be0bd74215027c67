#!/bin/sh
# An environment for lmms-eval on machines without a GPU: sh tools/vlm_env/lmms_eval.sh ENV_DIR
#
# lmms-eval asks for torchvision, and PyPI's does not import beside a CPU build of torch; nothing that is run here uses it.
# So lmms-eval is installed without its dependencies, and those that are used beside it. Does nothing where ENV_DIR is up
# to date. With a GPU: pip install 'evenmoe[vlm]' lmms-eval beside a torch and torchvision that match (docs/lmms_eval.md).
set -eu
[ $# -eq 1 ] || { echo "usage: sh tools/vlm_env/lmms_eval.sh ENV_DIR" >&2; exit 2; }
. "$(dirname "$0")/common.sh"
requirements=$ROOT/tools/vlm_env/lmms_eval.txt
if up_to_date "$1" "$requirements"; then exit 0; fi
overlay "$1" "$requirements"
"$1/bin/python" -c 'import lmms_eval.evaluator'
mark_ready "$1" "$requirements"
