"""Loads of image tokens and of text tokens, counted apart (`attach(split="modality")`).

The tags of such loads are "image" and "text" or, under a tag of the user's own, "name/image" and "name/text".
Shape letters: L MoE layers, E experts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.loads.expert_loads import ExpertLoads, LoadCounts
from evenmoe.loads.summing import sum_counts

Kind = Literal["image", "text"]
KINDS: Final[tuple[Kind, ...]] = ("text", "image")
"""In the order of a bool that says whether a token is an image token."""

Floats = NDArray[np.float64]


def split_tag(tag: str | None, kind: Kind) -> str:
    """Return the tag of one kind of tokens under a tag, or under none."""
    return kind if tag is None else f"{tag}/{kind}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalityLoads:
    """What image tokens asked for and ran, and what text tokens did."""

    image: LoadCounts
    text: LoadCounts


def loads_by_modality(loads: ExpertLoads, tag: str | None = None) -> ModalityLoads:
    """Return the loads of image and of text tokens, over all tags, or under one of the user's own.

    Raises ConfigError for loads that were not counted with split="modality", or not under that tag.
    """
    parts: dict[Kind, list[LoadCounts]] = {kind: [] for kind in KINDS}
    for name, counts in loads.by_tag.items():
        owner, kind = _read_tag(name)
        if tag is None or owner == tag:
            parts[kind].append(counts)
    if not parts["image"] or not parts["text"]:
        allowed = ", ".join(merged_tags(loads).by_tag) or "loads counted with attach(split='modality')"
        raise ConfigError("tag", tag, f"one of: {allowed}" if tag is not None else allowed)
    return ModalityLoads(image=sum_counts(parts["image"]), text=sum_counts(parts["text"]))


def merged_tags(loads: ExpertLoads) -> ExpertLoads:
    """Return the loads under the user's own tags, image and text tokens together again; "image", "text" go.

    Raises ConfigError for loads that were not counted with split="modality".
    """
    owners: dict[str, list[LoadCounts]] = {}
    for name, counts in loads.by_tag.items():
        owner, _ = _read_tag(name)
        if owner is not None:
            owners.setdefault(owner, []).append(counts)
    return dataclasses.replace(loads, by_tag={tag: sum_counts(parts) for tag, parts in owners.items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class ModalityProfile:
    """Load of each expert of one layer over the mean expert's [E], of image and of text tokens.

    The mean is that of all top-k assignments, T * K / E, before and after alike, so that the two can be compared;
    image_before_E + text_before_E is the "normalised load" of Capacity-Aware Inference, Figure 1.
    """

    layer: str
    image_before_E: Floats
    text_before_E: Floats
    image_after_E: Floats
    text_after_E: Floats


def modality_profile(loads: ExpertLoads, layer: int, tag: str | None = None) -> ModalityProfile:
    """Return how much of each expert's load in a layer is image tokens and how much text.

    Raises ConfigError for loads that were not counted with split="modality", and for a layer out of range.
    """
    if not -len(loads.layers) <= layer < len(loads.layers):
        raise ConfigError("layer", layer, f"a layer from 0 to {len(loads.layers) - 1}")
    parts = loads_by_modality(loads, tag)
    num_experts = int(loads.num_experts_L[layer])
    total = int(parts.image.before_LE[layer].sum() + parts.text.before_LE[layer].sum())
    even = max(total, 1) / num_experts

    def over_mean(counts_LE: NDArray[np.int64]) -> Floats:
        return np.asarray(counts_LE[layer, :num_experts] / even, dtype=np.float64)

    return ModalityProfile(
        layer=loads.layers[layer],
        image_before_E=over_mean(parts.image.before_LE),
        text_before_E=over_mean(parts.text.before_LE),
        image_after_E=over_mean(parts.image.after_LE),
        text_after_E=over_mean(parts.text.after_LE),
    )


def _read_tag(name: str) -> tuple[str | None, Kind]:
    owner, slash, kind = name.rpartition("/")
    for known in KINDS:
        if kind == known:
            return (owner if slash else None), known
    raise ConfigError("tag", name, "of loads counted with attach(split='modality'): ending in image or text")
