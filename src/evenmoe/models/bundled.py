"""The models that ship inside the package, so that everything runs offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from evenmoe.errors import check_choice
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.models.processing import load_processor

_HOME = Path(__file__).parent / "bundled"


def bundled_names() -> tuple[str, ...]:
    """Return the names of the models that ship."""
    return tuple(sorted(config.parent.name for config in _HOME.glob("*/config.json")))


def bundled_path(name: str = "text") -> Path:
    """Return the directory of a bundled checkpoint. Raises ConfigError for an unknown name, listing the known ones."""
    check_choice("name", name, bundled_names())
    return _HOME / name


def load_bundled(
    name: str = "text", *, dtype: torch.dtype | str = "float32", device: str | torch.device | None = None
) -> nn.Module:
    """Load a bundled model, in eval mode. Raises ConfigError for an unknown name, listing the known ones."""
    return load(bundled_path(name), dtype=dtype, device=device)


def bundled_tokenizer(name: str = "text") -> Any:
    """Load a bundled model's tokenizer. Raises ConfigError for an unknown name, listing the known ones."""
    return load_tokenizer(bundled_path(name))


def bundled_processor(name: str = "vlm") -> Any:
    """Load the processor of a bundled vision-language model: `load_processor` of its directory.

    Raises ConfigError for an unknown name, listing the known ones, and for a model that reads text only.
    """
    return load_processor(bundled_path(name))
