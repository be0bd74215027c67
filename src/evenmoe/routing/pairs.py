"""Pairs: the (token, expert) pairs of a mask, as a list. Shape letters: T tokens, E experts, P pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """The pairs of a mask in the order (token, expert), which is also the order in which ties are won."""

    flat_P: Tensor  # token * num_experts + expert
    token_P: Tensor
    num_experts: int

    @property
    def expert_P(self) -> Tensor:
        return self.flat_P - self.token_P * self.num_experts

    def at(self, index: Tensor) -> Pairs:
        """Return some of the pairs, by ascending indices."""
        return Pairs(
            self.flat_P.index_select(0, index), self.token_P.index_select(0, index), self.num_experts
        )

    def values(self, values_TE: Tensor) -> Tensor:
        """Return [P]: the entries of a [T, E] tensor."""
        return values_TE.reshape(-1).index_select(0, self.flat_P)

    def written_to(self, mask_TE: Tensor, value_P: Tensor) -> Tensor:
        """Return a copy of a bool mask whose entries at these pairs are replaced."""
        return mask_TE.flatten().clone().scatter_(0, self.flat_P, value_P).view_as(mask_TE)

    def count(self, num_tokens: int) -> Tensor:
        """Return [T]: the number of pairs of each token."""
        return torch.bincount(self.token_P, minlength=num_tokens)


def list_pairs(mask_TE: Tensor) -> Pairs:
    """Return the pairs that are True in a mask."""
    num_experts = mask_TE.shape[1]
    flat_P = _where(mask_TE.reshape(-1))
    if num_experts & (num_experts - 1) == 0:
        token_P = flat_P >> (num_experts.bit_length() - 1)  # several times as fast as an integer division
    else:
        token_P = flat_P.div(num_experts, rounding_mode="floor")
    return Pairs(flat_P, token_P, num_experts)


def _where(mask: Tensor) -> Tensor:
    """Return the indices of the True entries of a vector."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))  # a third of the time of torch's own
    return mask.nonzero().view(-1)


def count_chosen(chosen_TE: Tensor) -> Tensor:
    """Return [T]: the number of experts of each token."""
    # Summing bytes in 32 bits is twice as fast as summing bools, which are widened to 64.
    return chosen_TE.view(torch.uint8).sum(1, dtype=torch.int32).long()
