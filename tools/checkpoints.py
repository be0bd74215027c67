"""Checkpoints of the recipes: the one that ships, and the state from which training goes on."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tools.errors import RecipeError

logger = logging.getLogger(__name__)
MAX_CHECKPOINT_BYTES = 20_000_000


def write_checkpoint(model: PreTrainedModel, out: Path) -> None:
    """Write the model to `out` in bfloat16, to which it is turned; whole or not at all.

    Raises RecipeError unless it is one file of at most MAX_CHECKPOINT_BYTES.
    """
    partial = out / "partial"
    model.to(torch.bfloat16).save_pretrained(partial)
    checkpoint = partial / "model.safetensors"
    if not checkpoint.exists() or checkpoint.stat().st_size > MAX_CHECKPOINT_BYTES:
        raise RecipeError(f"{checkpoint} must be one file of at most {MAX_CHECKPOINT_BYTES} bytes")
    for path in partial.iterdir():
        path.chmod(0o644)
        os.replace(path, out / path.name)
    partial.rmdir()


def save_state(path: Path, recipe: dict[str, Any], state: dict[str, Any]) -> None:
    """Save the state of a training run under its recipe; an interruption leaves the previous one whole."""
    partial = path.with_suffix(".partial")
    torch.save(state | {"recipe": json.dumps(recipe)}, partial)
    partial.replace(path)


def load_state(path: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """Return what `save_state` saved, or None where there is nothing, or that of another recipe."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["recipe"] != json.dumps(recipe):
        logger.warning("%s is of another recipe: starting anew", path)
        return None
    return state
