"""AttachSettings: the options of `attach`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenmoe.errors import ConfigError, ShapeError, check_choice
from evenmoe.routing.context import contiguous_split

Phases = Literal["both", "prefill", "decode"]
Placement = Sequence[int] | Sequence[Sequence[int]] | NDArray[np.integer] | Tensor


@dataclass(frozen=True, kw_only=True)
class AttachSettings:
    """The resolved options of `attach`; see there. `placement` is [L][E], or None for contiguous shares."""

    num_devices: int = 1
    placement: tuple[tuple[int, ...], ...] | None = None
    min_tokens: int | None = None
    phases: Phases = "both"
    seed: int = 0
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        check_choice("phases", self.phases, get_args(Phases))
        _check_integer("num_devices", self.num_devices, least=1)
        _check_integer("seed", self.seed, least=None)
        if self.min_tokens is not None:
            _check_integer("min_tokens", self.min_tokens, least=1)
        if self.pad_token_id is not None:
            _check_integer("pad_token_id", self.pad_token_id, least=None)

    def device_of_expert(self, num_experts_L: Sequence[int]) -> list[Tensor]:
        """Return, per layer, [E]: the device of each expert. Raises ConfigError if devices outnumber experts."""
        if self.placement is not None:
            return [torch.tensor(row) for row in self.placement]
        if self.num_devices > min(num_experts_L):
            raise ConfigError(
                "num_devices",
                self.num_devices,
                f"at most the {min(num_experts_L)} experts, unless placement is given",
            )
        return [contiguous_split(num_experts, self.num_devices) for num_experts in num_experts_L]


def resolve_placement(
    placement: Placement | None, num_experts_L: Sequence[int], num_devices: int
) -> tuple[tuple[int, ...], ...] | None:
    """Return a placement, given for all layers at once or for each, as one row of devices per layer.

    Raises ShapeError if it does not fit the layers, ConfigError if it names a device out of range.
    """
    if placement is None:
        return None
    try:
        rows = np.asarray(placement.cpu() if isinstance(placement, Tensor) else placement)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            "placement must be [experts] or [layers][experts], all layers of one length"
        ) from error
    if rows.ndim == 1:
        rows = np.tile(rows, (len(num_experts_L), 1))
    if rows.ndim != 2 or rows.shape[0] != len(num_experts_L):
        raise ShapeError(
            f"placement has shape {rows.shape}; the model has {len(num_experts_L)} MoE layers of "
            f"{max(num_experts_L)} experts"
        )
    if not np.issubdtype(rows.dtype, np.integer):
        raise ConfigError("placement", str(rows.dtype), "integers, the device of each expert")
    for layer, num_experts in enumerate(num_experts_L):
        if rows.shape[1] != num_experts:
            raise ShapeError(f"placement has {rows.shape[1]} experts, MoE layer {layer} has {num_experts}")
    if rows.min() < 0 or rows.max() >= num_devices:
        wrong = rows.min() if rows.min() < 0 else rows.max()
        raise ConfigError("placement", int(wrong), f"a device from 0 to num_devices - 1 = {num_devices - 1}")
    return tuple(tuple(int(device) for device in row) for row in rows)


def _check_integer(field: str, value: object, least: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise ConfigError(field, value, "an integer" if least is None else f"an integer of at least {least}")
