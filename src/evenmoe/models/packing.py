"""Packing: each kept (token, expert) pair becomes one row with top-1. Pure functions.

Shape letters: T tokens, E experts, K top-k, P pairs, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evenmoe.models.scores import ScoreRule

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs that run, in the order of their tokens, and the weight of each."""

    token_P: Tensor
    expert_P: Tensor
    weight_P: Tensor


def chosen_experts(index_TK: Tensor, used_TK: Tensor | None, num_experts: int) -> Tensor:
    """Return [T, E] bool: the experts each token was given; slots that `used_TK` marks False are none."""
    marks = torch.ones_like(index_TK) if used_TK is None else used_TK.to(index_TK.dtype)
    return index_TK.new_zeros(index_TK.shape[0], num_experts).scatter_add_(1, index_TK, marks) > 0


def dense_weights(index_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Tensor:
    """Return [T, E]: each expert's weight, 0 where it was not chosen. An expert chosen twice gets the sum."""
    return weight_TK.new_zeros(index_TK.shape[0], num_experts).scatter_add(1, index_TK, weight_TK)


def kept_pairs(
    kept_TE: Tensor, chosen_TE: Tensor, weight_TE: Tensor, scores_TE: Tensor, rule: ScoreRule | None
) -> Pairs:
    """Return the kept pairs with their weights.

    A chosen pair keeps the router's weight. A pair that the policy added weighs
    `weight * score / score of the token's best chosen expert`. Where the router normalises over the top-k, a token
    whose set of experts changed is normalised again over its kept experts; all others keep their exact weights.
    """
    token_P, expert_P = kept_TE.nonzero(as_tuple=True)
    weight_P = weight_TE[token_P, expert_P]
    if rule is None:
        return Pairs(token_P, expert_P, weight_P)
    unit_TE = rule.unit_weights(scores_TE)
    best_T = torch.where(chosen_TE, unit_TE, -torch.inf).argmax(-1, keepdim=True)
    tiny = torch.finfo(unit_TE.dtype).tiny
    ratio_T = (weight_TE.gather(1, best_T) / unit_TE.gather(1, best_T).clamp(min=tiny)).squeeze(1)
    added_P = ~chosen_TE[token_P, expert_P]
    weight_P = torch.where(
        added_P, (ratio_T[token_P] * unit_TE[token_P, expert_P]).to(weight_P.dtype), weight_P
    )
    if rule.renormalise == "top-k":
        factor_T = rule.norm(scores_TE, chosen_TE) / rule.norm(scores_TE, kept_TE).clamp(min=tiny)
        factor_T = torch.where((kept_TE != chosen_TE).any(-1), factor_T, 1.0)
        weight_P = (weight_P * factor_T[token_P]).to(weight_TE.dtype)
    return Pairs(token_P, expert_P, weight_P)


def gather_rows(hidden: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the experts' inputs for the pairs: hidden [P, H], experts [P, 1], weights [P, 1].

    No pair at all becomes one row of zeros with weight 0, so that the experts are always called.
    """
    flat_TH = hidden.reshape(-1, hidden.shape[-1])
    if pairs.token_P.numel() == 0:
        nothing = pairs.expert_P.new_zeros(1, 1)
        return flat_TH.new_zeros(1, flat_TH.shape[1]), nothing, pairs.weight_P.new_zeros(1, 1)
    return flat_TH[pairs.token_P], pairs.expert_P[:, None], pairs.weight_P[:, None]


def scatter_rows(rows: Tensor, pairs: Pairs, shape: torch.Size) -> Tensor:
    """Return the experts' outputs summed per token, in the `shape` of the hidden states before packing.

    Half-precision rows are summed in float32, as the experts do it themselves.
    """
    flat = rows.reshape(-1, rows.shape[-1])[: pairs.token_P.numel()]
    total_TH = torch.zeros(
        shape[:-1].numel(),
        flat.shape[-1],
        dtype=torch.float32 if rows.dtype in _HALF else rows.dtype,
        device=rows.device,
    )
    total_TH = total_TH.index_add(0, pairs.token_P, flat.to(total_TH.dtype))
    return total_TH.to(rows.dtype).view(*shape[:-1], flat.shape[-1])
