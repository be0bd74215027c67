"""A checkpoint whose output embedding is the input embedding, rewritten so that it holds both."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from evenmoe.errors import FileFormatError

HEAD = "lm_head.weight"
HEAD_FILE = "output-embedding.safetensors"
SINGLE = "model.safetensors"
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
_EMBEDDINGS = ("embed_tokens.weight", "tok_embeddings.weight", "word_embeddings.weight", "wte.weight")


def untied(folder: Path, cache: Path) -> Path:
    """Return a folder in `cache` with the same checkpoint, whose output embedding is a matrix of its own.

    The weights are links to those of `folder`; only the input embedding is copied. Made once, and anew when the
    checkpoint's files change. Raises FileFormatError where the input embedding is not to be found, or the weights are
    several files without an index.
    """
    target = cache / f"{folder.name}-{_fingerprint(folder)}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=cache, prefix=".untying-"))
    try:
        _write(folder, scratch)
        os.replace(scratch, target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def cache_folder() -> Path:
    """Where untied copies are kept: $XDG_CACHE_HOME/evenmoe, by default ~/.cache/evenmoe."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return Path(home if os.path.isabs(home) else Path.home() / ".cache") / "evenmoe" / "untied"


def _write(folder: Path, scratch: Path) -> None:
    from safetensors.torch import save_file

    weights, name = _input_embedding(folder)
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("config.json", INDEX, SINGLE):
            (scratch / file.name).symlink_to(file.resolve())
    save_file({HEAD: _read(weights, name)}, scratch / HEAD_FILE, metadata={"format": "pt"})
    _write_json(scratch / "config.json", _read_json(folder / "config.json") | {"tie_word_embeddings": False})
    _write_json(scratch / INDEX, _index(folder, scratch))


def _index(folder: Path, scratch: Path) -> dict[str, Any]:
    """The index of shards, as which a single file of weights is linked too: loaders read none beside one."""
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
    else:
        (scratch / SHARD).symlink_to((folder / SINGLE).resolve())
        index = {"metadata": {}, "weight_map": dict.fromkeys(weight_names(folder / SINGLE), SHARD)}
    return index | {"weight_map": index["weight_map"] | {HEAD: HEAD_FILE}}


def _read_json(file: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return body


def _write_json(file: Path, body: dict[str, Any]) -> None:
    file.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _input_embedding(folder: Path) -> tuple[Path, str]:
    """The file and the name of the input embedding."""
    found = [
        (file, name)
        for file in sorted(folder.glob("*.safetensors"))
        for name in weight_names(file)
        if name.endswith(_EMBEDDINGS)
    ]
    if len(found) != 1:
        names = ", ".join(name for _, name in found) or "none"
        raise FileFormatError(
            f"{folder}: tie_word_embeddings is true, and one input embedding was looked for; found {names}"
        )
    if not (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        raise FileFormatError(f"{folder} has several files of weights and no {INDEX}")
    return found[0]


def weight_names(file: Path) -> list[str]:
    """Return the names of a safetensors file's tensors, from its header. Raises FileFormatError."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except ValueError as error:
        raise FileFormatError(f"{file} is not a safetensors file: {error}") from error
    return [name for name in header if name != "__metadata__"]


def _read(file: Path, name: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name)


def _fingerprint(folder: Path) -> str:
    """Of the folder's place, its configuration, and the names, sizes and times of its files."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    digest.update((folder / "config.json").read_bytes())
    for file in sorted(folder.iterdir()):
        if file.is_file():
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
