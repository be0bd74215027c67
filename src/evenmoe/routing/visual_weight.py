"""Visual weight: how much of a token counts as load, by the entropy of its features (MACS).

Shape letters: T tokens, G groups of tokens. Weights are whole numbers of 1 / UNIT, so that sums are exact and do not
depend on their order: one process and several agree.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from evenmoe.errors import ConfigError

UNIT: Final = 2**16
"""What a text token weighs."""

Normalise = Literal["images", "tokens"]

_LEAST_VARIANCE = 1e-12  # nats squared: entropies that are equal but for rounding weigh the same


def token_weights(
    entropy_T: Tensor,
    image_T: Tensor,
    group_T: Tensor,
    num_groups: int,
    delta: float,
    normalise: Normalise = "images",
) -> Tensor:
    """Return [T] integers: UNIT for a text token, sigmoid(-delta * z) of it, at least 1, for an image token.

    z is the token's entropy less the mean, over the standard deviation, of the image tokens (normalise="images") or of
    all tokens ("tokens") of its group. Raises ConfigError for an entropy that is NaN or infinite where it is used.
    """
    used_T = image_T if normalise == "images" else torch.ones_like(image_T)
    entropy_T = torch.where(used_T, entropy_T.double(), 0.0)
    if not bool(entropy_T.isfinite().all()):
        token = int(entropy_T.isfinite().logical_not().nonzero()[0])
        raise ConfigError("entropy_T", float(entropy_T[token]), f"finite, but token {token} has it")
    count_G = _sums(used_T.double(), group_T, num_groups).clamp(min=1.0)
    centred_T = entropy_T - (_sums(entropy_T, group_T, num_groups) / count_G)[group_T]
    variance_G = _sums(torch.where(used_T, centred_T * centred_T, 0.0), group_T, num_groups) / count_G
    z_T = centred_T / (variance_G + _LEAST_VARIANCE).sqrt()[group_T]
    visual_T = (torch.sigmoid(-delta * z_T) * UNIT).round().long().clamp(min=1)
    return torch.where(image_T, visual_T, UNIT)


def visual_share(weight_T: Tensor, image_T: Tensor, group_T: Tensor, num_groups: int) -> Tensor:
    """Return [G] float64: R_v, the share of a group's weight that its image tokens have; 0.5 in an empty group."""
    total_G = weight_T.new_zeros(num_groups).index_add_(0, group_T, weight_T)
    visual_G = weight_T.new_zeros(num_groups).index_add_(0, group_T, torch.where(image_T, weight_T, 0))
    return torch.where(total_G > 0, visual_G.double() / total_G.clamp(min=1).double(), 0.5)


def _sums(values_T: Tensor, group_T: Tensor, num_groups: int) -> Tensor:
    return values_T.new_zeros(num_groups).index_add_(0, group_T, values_T)
