# Sourced by the scripts of this folder: an environment that borrows the packages of the development environment
# (torch, transformers and some hundred more, 2 GB) and adds those of one harness, without torchvision where it can.
#
# BASE: the environment to borrow from; .venv of this checkout unless set, and made by `make .venv/.dev` then.

ROOT=$(cd "$(dirname "$0")/../.." && pwd)

# up_to_date ENV_DIR FILE...: whether `mark_ready` was called for the same files and the same base.
up_to_date() { [ -f "$1/.ready" ] && [ "$(cat "$1/.ready")" = "$(shift && fingerprint "$@")" ]; }

# mark_ready ENV_DIR FILE...: remember that the environment is complete.
mark_ready() { (dir=$1 && shift && fingerprint "$@" > "$dir/.ready"); }

fingerprint() { (echo "$(base_dir)" && cat "$0" "$ROOT/tools/vlm_env/common.sh" "$ROOT/pyproject.toml" "$@") | sha256sum; }

base_dir() { echo "${BASE:-$ROOT/.venv}"; }

# overlay ENV_DIR REQUIREMENTS: make the environment anew, with the pinned packages and this checkout, editable.
overlay() {
    [ -n "${BASE:-}" ] || make -s -C "$ROOT" .venv/.dev
    [ -x "$(base_dir)/bin/python" ] || { echo "BASE = $(base_dir) is not a Python environment" >&2; return 1; }
    "$(base_dir)/bin/python" -m venv --clear --without-pip "$1"
    borrowed=$("$(base_dir)/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    own=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; site.addsitedir('$borrowed')" > "$own/borrowed.pth"  # after its own packages, which win
    overlay_pip "$1" --no-deps -r "$2"
    overlay_pip "$1" --no-deps -e "$ROOT"
}

# overlay_pip ENV_DIR ARGUMENT...: pip install by the borrowed pip, and builds by the borrowed setuptools: fetching one for
# each package that has no wheel takes longer than all the rest.
overlay_pip() {
    (dir=$1 && shift && "$dir/bin/python" -m pip --disable-pip-version-check install -q --no-build-isolation "$@")
}
