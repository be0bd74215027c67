"""AttachSettings: the options of `attach`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evenmoe.errors import ConfigError, check_choice
from evenmoe.models.padding import SpecialTokens
from evenmoe.placement import Placement, read_placement
from evenmoe.routing import ExpertModality, Macs, Policy
from evenmoe.routing.context import contiguous_split

Phases = Literal["both", "prefill", "decode"]
Split = Literal["none", "modality"]
PlacementRows = (
    Sequence[int] | Sequence[Sequence[int | Sequence[int]]] | NDArray[np.integer] | Tensor | str | Path
)
"""What stands for a Placement: the device of each expert, [E] or [L][E], or a placement file."""


@dataclass(frozen=True, kw_only=True)
class AttachSettings:
    """The resolved options of `attach`; see there. `placement` None stands for contiguous shares."""

    num_devices: int = 1
    placement: Placement | None = None
    min_tokens: int | None = None
    phases: Phases = "both"
    seed: int = 0
    pad_token_id: int | None = None
    split: Split = "none"

    def __post_init__(self) -> None:
        check_choice("phases", self.phases, get_args(Phases))
        check_choice("split", self.split, get_args(Split))
        _check_integer("num_devices", self.num_devices, least=1)
        _check_integer("seed", self.seed, least=None)
        if self.min_tokens is not None:
            _check_integer("min_tokens", self.min_tokens, least=1)
        if self.pad_token_id is not None:
            _check_integer("pad_token_id", self.pad_token_id, least=None)

    def describe(self) -> dict[str, Any]:
        """Return the options as data."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.placement is not None:
            shown["placement"] = self.placement.rows
        return shown


def resolve_placement(
    placement: Placement | PlacementRows | None, num_experts_L: Sequence[int], num_devices: int
) -> Placement:
    """Return a placement with one row per MoE layer; None cuts each layer's experts into contiguous shares.

    Raises FileNotFoundError and FileFormatError for a file that is none; ShapeError if it does not fit the layers;
    ConfigError if it names a device out of range, was made for
    another number of devices, or is None with more devices than experts.
    """
    if placement is None:
        if num_devices > min(num_experts_L):
            raise ConfigError(
                "num_devices",
                num_devices,
                f"at most the {min(num_experts_L)} experts, unless placement is given",
            )
        rows = [contiguous_split(num_experts, num_devices).tolist() for num_experts in num_experts_L]
        return Placement.of(rows, num_devices, method="contiguous")
    if isinstance(placement, str | Path):
        placement = read_placement(placement)
    if isinstance(placement, Tensor):
        placement = placement.cpu().numpy()
    if not isinstance(placement, Placement):
        placement = Placement.of(placement, num_devices)
    if placement.num_devices != num_devices:
        raise ConfigError(
            "placement", f"for {placement.num_devices} devices", f"one for num_devices = {num_devices}"
        )
    return placement.for_layers(num_experts_L)


def resolve_labels(
    policy: Policy, layers: Sequence[str], num_experts_L: Sequence[int]
) -> ExpertModality | None:
    """Return the labels of the model's experts that the policy brings, if it does.

    Raises FileNotFoundError and FileFormatError for a file that is none; ConfigError where labels are needed and there
    are none; ShapeError for those of another model.
    """
    labels = policy.expert_modality() if isinstance(policy, Macs) else None
    if labels is not None:
        labels.check_fits(layers, num_experts_L)
    return labels


def check_images(policy: Policy, split: Split, tokens: SpecialTokens) -> None:
    """Raise ConfigError if image tokens must be known and the model's configuration names none."""
    if tokens.image:
        return
    allowed = "left out: the model's configuration names no image token"
    if policy.needs_images:
        setting = "modality" if hasattr(policy, "modality") else "policy"
        raise ConfigError(setting, getattr(policy, setting, policy.name), allowed)
    if split == "modality":
        raise ConfigError("split", split, allowed)


def _check_integer(field: str, value: object, least: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise ConfigError(field, value, "an integer" if least is None else f"an integer of at least {least}")
