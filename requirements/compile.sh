#!/bin/sh
# Resolve pyproject.toml into one lock per use. Local version labels ("+cpu") are cut: they name one machine's build.
set -eu
cd "$(dirname "$0")/.."
compile() {
    output=$1
    shift
    "$LOCK_COMPILER" --quiet --strip-extras --no-annotate --no-header --allow-unsafe \
        --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
        --constraint requirements/pins.in --output-file "$output" "$@" pyproject.toml
    sed -i -E 's/^([a-z0-9-]+==[0-9.]+)\+[a-z0-9.]+/\1/' "$output"
}
compile requirements/runtime.txt
compile requirements/dev.txt --constraint requirements/runtime.txt --extra dev --extra eval --extra vlm --extra quantization --extra serve-transformers
compile requirements/docs.txt --constraint requirements/runtime.txt --extra docs
# vLLM wants an older transformers than the other locks have, so it has an environment of its own.
compile requirements/serve.txt --extra serve --extra dev
