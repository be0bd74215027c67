"""Score functions: what a router's logits mean, and how its top-k weights follow from them.

Shape letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evenmoe.errors import check_choice

Renormalise = Literal["none", "top-k", "joint"]
"""How the weights of one token are normalised: not at all, over its top-k, or together with shared experts."""

SCORE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits_TE: logits_TE.softmax(-1),
    "sigmoid": torch.sigmoid,
    "sqrt_softplus": lambda logits_TE: torch.nn.functional.softplus(logits_TE).sqrt(),
    "identity": lambda logits_TE: logits_TE,
}
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreRule:
    """One router's scores: `weight = constant * score * expert_scale`, normalised as `renormalise` says.

    function: a name in SCORE_FUNCTIONS, applied to the router's logits (to its probabilities for "identity").
    power: the norm used by "top-k"; 1 divides by the sum.
    expert_scale_E: a factor per expert that the router applies after normalising.
    """

    function: str
    renormalise: Renormalise
    power: float = 1.0
    expert_scale_E: Tensor | None = None

    def __post_init__(self) -> None:
        check_choice("function", self.function, SCORE_FUNCTIONS)
        check_choice("renormalise", self.renormalise, ("none", "top-k", "joint"))

    def scores(self, logits_TE: Tensor) -> Tensor:
        """Return the scores [T, E] in float32."""
        return SCORE_FUNCTIONS[self.function](logits_TE.float())

    def unit_weights(self, scores_TE: Tensor) -> Tensor:
        """Return [T, E]: what the router's weights are proportional to within one token."""
        return scores_TE if self.expert_scale_E is None else scores_TE * self.expert_scale_E.to(scores_TE)

    def norm(self, scores_TE: Tensor, of_TE: Tensor) -> Tensor:
        """Return [T]: the norm of each token's scores over the experts marked in `of_TE`."""
        part_TE = torch.where(of_TE, scores_TE, 0.0)
        return part_TE.sum(-1) if self.power == 1.0 else part_TE.pow(self.power).sum(-1).pow(1.0 / self.power)


@torch.no_grad()
def deviation(rule: ScoreRule, logits_TE: Tensor, weight_TK: Tensor, index_TK: Tensor) -> float:
    """Return the largest relative error with which `rule` explains a router's weights; inf if it cannot.

    Slots of weight 0 are left out. "none" must hold with one constant for all tokens; "top-k" with one norm for all
    tokens; "joint" only within each token.
    """
    used_TK = weight_TK != 0
    if not bool(used_TK.any()):
        return float("inf")
    scores_TE = rule.scores(logits_TE)
    unit_TK = rule.unit_weights(scores_TE).gather(1, index_TK).double()
    ratio_TK = torch.where(used_TK, weight_TK.double() / unit_TK, torch.nan)
    if rule.renormalise == "none":
        return _spread(ratio_TK.reshape(1, -1))
    within_token = _spread(ratio_TK)
    if rule.renormalise == "joint":
        return within_token
    scale_TK = unit_TK / scores_TE.gather(1, index_TK).double()
    share_TK = torch.where(used_TK, weight_TK.double() / scale_TK, 0.0)
    norm_T = rule.norm(share_TK, used_TK)
    return max(within_token, _spread(norm_T[used_TK.any(-1)][None]))


def _spread(values: Tensor) -> float:
    """Return how far any value is from the mean of its row, relative to that mean; NaN entries are left out."""
    known = ~values.isnan()
    mean = torch.where(known, values, 0.0).sum(-1, keepdim=True) / known.sum(-1, keepdim=True)
    error = torch.where(known, (values / mean - 1).abs(), 0.0)
    worst = float(error.max())
    return worst if worst == worst else float("inf")


def tolerance(weight_TK: Tensor) -> float:
    """Return the error that the weights' own precision excuses, at least TOLERANCE."""
    return max(TOLERANCE, 4 * torch.finfo(weight_TK.dtype).eps)


def explains(rule: ScoreRule, logits_TE: Tensor, weight_TK: Tensor, index_TK: Tensor) -> bool:
    """Return whether `rule` explains the router's top-k weights."""
    return deviation(rule, logits_TE, weight_TK, index_TK) < tolerance(weight_TK)


def infer_rule(logits_TE: Tensor, weight_TK: Tensor, index_TK: Tensor) -> ScoreRule | None:
    """Return the first score rule that explains the router's weights, or None.

    With top-1 only an unnormalised rule can be told from the others.
    """
    kinds: tuple[Renormalise, ...] = ("none", "top-k", "joint") if index_TK.shape[1] > 1 else ("none",)
    for renormalise in kinds:
        for function in SCORE_FUNCTIONS:
            rule = ScoreRule(function=function, renormalise=renormalise)
            if explains(rule, logits_TE, weight_TK, index_TK):
                return rule
    return None
