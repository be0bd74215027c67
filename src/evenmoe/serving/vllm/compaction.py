"""Compaction: pairs as the slots that an engine passes from router to experts, and the slots that are pairs to run.

Shape letters: T tokens, E experts, S slots, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evenmoe.models.packing import Pairs

EMPTY = -1
"""The expert of a slot that holds no pair."""


def slots_of(pairs: Pairs, num_tokens: int, least: int) -> tuple[Tensor, Tensor]:
    """Return weights and experts [T, S], a row per token, with expert EMPTY and weight 0 where a slot holds no pair.

    S is the most pairs of any token, at least `least`.
    """
    count_T = torch.bincount(pairs.token_P, minlength=num_tokens)
    width = max(int(count_T.max()) if num_tokens else 0, least)
    first_T = count_T.cumsum(0) - count_T
    place_P = torch.arange(pairs.token_P.shape[0], device=pairs.token_P.device) - first_T[pairs.token_P]
    expert_TS = pairs.expert_P.new_full((num_tokens, width), EMPTY)
    weight_TS = pairs.weight_P.new_zeros((num_tokens, width))
    expert_TS[pairs.token_P, place_P] = pairs.expert_P
    weight_TS[pairs.token_P, place_P] = pairs.weight_P
    return weight_TS, expert_TS


def own_experts(index_TS: Tensor, local_of_expert_E: Tensor) -> Tensor:
    """Return the experts as a rank numbers its own, EMPTY where it does not hold one or the slot is empty."""
    local_TS = local_of_expert_E[index_TS.clamp(min=0).long()]
    return torch.where(index_TS >= 0, local_TS, EMPTY).to(index_TS.dtype)
