"""Calibration of expert modality: which experts serve image tokens, which text tokens, and which both (MACS).

Shape letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads
from evenmoe.loads.modality import loads_by_modality
from evenmoe.models.attach import attach
from evenmoe.routing import Baseline, ExpertModality

THRESHOLD: Final = 2.0
"""From which ratio of its shares on an expert is one modality's: twice as much of it as of the other."""


def calibrate_modality(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    threshold: float = THRESHOLD,
    progress: Callable[[int], None] | None = None,
) -> ExpertModality:
    """Run the model on prompts of images and text, and label its experts by what they were asked for.

    batches: arguments of the model's forward, as its processor gives them. progress: called with the batches done.
    Raises ConfigError for a model whose configuration names no image token, for a threshold below 1, and for batches
    without any image token or any text token.
    """
    _check_threshold(threshold)
    with attach(model, Baseline(), split="modality") as attached, torch.inference_mode():
        for done, batch in enumerate(batches, start=1):
            model(**batch)
            if progress is not None:
                progress(done)
        return label_experts(attached.loads, threshold)


def label_experts(loads: ExpertLoads, threshold: float = THRESHOLD) -> ExpertModality:
    """Return a label for each expert, from loads counted with attach(split="modality").

    An expert's share of the image tokens' pairs over its share of the text tokens' is its ratio: "visual" from the
    threshold on, "text" from 1 / threshold down, else "shared". Raises as `calibrate_modality`.
    """
    _check_threshold(threshold)
    ratio_LE = modality_ratio(loads)
    rows = [
        [
            "visual" if r >= threshold else "text" if r <= 1 / threshold else "shared"
            for r in ratio_E[:num_experts]
        ]
        for ratio_E, num_experts in zip(ratio_LE, loads.num_experts_L, strict=True)
    ]
    num_tokens = {
        kind: int(np.max(counts.tokens_L, initial=0))
        for kind, counts in vars(loads_by_modality(loads)).items()
    }
    method = (
        f"share of image pairs over share of text pairs, threshold {threshold:g}, "
        f"{num_tokens['image']} image and {num_tokens['text']} text tokens"
    )
    return ExpertModality.of(loads.layers, rows, method)


def modality_ratio(loads: ExpertLoads) -> NDArray[np.float64]:
    """Return [L, E]: each expert's share of the image tokens' pairs over its share of the text tokens'.

    One pair is added to every count, so that an expert that was hardly asked for comes out near 1. In a layer that only
    one modality reaches, the ratio is 0 (text) or infinite (image).
    Raises ConfigError for loads that were not counted apart, or that lack one of the two.
    """
    parts = loads_by_modality(loads)
    shares, reached = [], []
    for kind, counts in (("image", parts.image), ("text", parts.text)):
        total_L1 = counts.before_LE.sum(1, keepdims=True)
        if not total_L1.any():
            raise ConfigError("batches", f"no {kind} token", "prompts with images and with text")
        shares.append((counts.before_LE + 1) / (total_L1 + loads.num_experts_L[:, None]))
        reached.append(total_L1 > 0)
    ratio_LE = np.where(reached[0] | ~reached[1], shares[0] / shares[1], 0.0)
    return np.where(reached[1] | ~reached[0], ratio_LE, np.inf)


def _check_threshold(threshold: object) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 1 < float(threshold) < np.inf:
        raise ConfigError("threshold", threshold, "a number above 1")
