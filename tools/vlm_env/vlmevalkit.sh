#!/bin/sh
# An environment for VLMEvalKit on machines without a GPU: sh tools/vlm_env/vlmevalkit.sh ENV_DIR
#
# ms-vlmeval asks for some 85 packages, most for single benchmarks. It is installed without its dependencies, and those
# that its import loads beside it. It imports torchvision, and PyPI's does not import beside a CPU build of torch: two files
# make it. Does nothing where ENV_DIR is up to date. With a GPU: pip install 'evenmoe[vlm]' ms-vlmeval (docs/vlmevalkit.md).
set -eu
[ $# -eq 1 ] || { echo "usage: sh tools/vlm_env/vlmevalkit.sh ENV_DIR" >&2; exit 2; }
. "$(dirname "$0")/common.sh"
requirements=$ROOT/tools/vlm_env/vlmevalkit.txt
torchvision=$ROOT/tools/vlm_env/torchvision_without_operators.py
if up_to_date "$1" "$requirements" "$torchvision"; then exit 0; fi
overlay "$1" "$requirements"
packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$torchvision" "$packages/"
echo "import torchvision_without_operators" > "$packages/torchvision_without_operators.pth"
"$1/bin/python" -c 'import vlmeval.config' > "$1/import.log" 2>&1 || { cat "$1/import.log" >&2; exit 1; }
mark_ready "$1" "$requirements" "$torchvision"
