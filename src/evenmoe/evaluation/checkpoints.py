"""Which checkpoint a model's name stands for, and whether it is still the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from evenmoe.errors import ConfigError
from evenmoe.models.bundled import bundled_path

BUNDLED_PREFIX = "bundled:"
END_BYTES = 1 << 20


def checkpoint_of(name: str) -> str:
    """A folder or Hub name as `load` takes it; "bundled:text" is the folder that ships.

    Raises ConfigError for an unknown bundled model, and offline for a Hub name that is not in the cache.
    """
    if name.startswith(BUNDLED_PREFIX):
        return str(bundled_path(name.removeprefix(BUNDLED_PREFIX)))
    if constants.HF_HUB_OFFLINE and _is_hub_name(name) and not try_to_load_from_cache(name, "config.json"):
        allowed = f"in the local cache: HF_HUB_OFFLINE is set. Get it first with `hf download {name}`, or give a folder"
        raise ConfigError("model", name, allowed)
    return name


def _is_hub_name(name: str) -> bool:
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()
    return bool(name) and not is_path


def weights_mark(name: str) -> list[list[str | int]]:
    """Name, size and a digest of the ends of each file of a local checkpoint: cheap, and other for other weights.

    Empty for a name on the Hub, whose files do not change under a version.
    """
    folder = Path(checkpoint_of(name)).expanduser()
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json"))
    return [[file.name, file.stat().st_size, _digest_of_ends(file)] for file in files]


def _digest_of_ends(file: Path) -> str:
    with file.open("rb") as stream:
        head = stream.read(END_BYTES)
        stream.seek(max(file.stat().st_size - END_BYTES, 0))
        return hashlib.sha256(head + stream.read()).hexdigest()
