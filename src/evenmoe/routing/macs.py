"""MACS: capacity counted in entropy-weighted load and scaled by modality (arXiv 2605.05225).

Shape letters: T tokens, E experts, P pairs, G groups of tokens, B bins of a group, X bins of all groups.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from evenmoe.errors import ConfigError, check_choice
from evenmoe.routing.capacity import check_gamma
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.expert_modality import ExpertModality, read_expert_modality
from evenmoe.routing.groups import Bins, Isolation, Level, Scope, bins_for, make_groups
from evenmoe.routing.locations import copies_of_expert
from evenmoe.routing.pairs import Pairs, list_pairs
from evenmoe.routing.policy import Policy, require
from evenmoe.routing.priority import Priority, make_priority
from evenmoe.routing.selection import Edge, fitting_bins
from evenmoe.routing.visual_weight import UNIT, Normalise, token_weights, visual_share

CapacityFrom = Literal["pairs", "weight"]
Rounding = Literal["none", "up", "down"]
RankBy = Literal["score", "weighted"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Macs(Policy):
    """Each expert keeps its best pairs until their weight reaches its capacity.

    A text token weighs 1, an image token w = sigmoid(-delta * z), z the normalised entropy of its features. An expert's
    load is the weight of its pairs, its capacity C_j = C * (1 + rho * m_j * (R_v - 0.5)), at least 1: C as in Token
    Drop, m_j 1 / -1 / 0 for a visual / text / shared expert, R_v the image tokens' share of the group's weight.

    gamma, scope, level, isolation: as in Token Drop. With level "device", m_j is the mean over a device's experts.
    delta: how much entropy matters; 0 gives every image token the weight 0.5.
    rho: how far the capacity follows the modality, from 0 (not at all) to 2 (no room beyond 1 for the absent one).
    labels: which experts are visual, text or shared: an ExpertModality, or the file of one (`evenmoe
        calibrate-modality`), which `attach` reads and checks; `keep` takes them from `RoutingContext.modality_E`.

    What the publication leaves open:
    normalise: z over the "images", or over all "tokens", of the group that competes (source device, or request).
    capacity_from: C from the number of "pairs", as in Token Drop, or from their "weight".
    rounding: of C_j to whole tokens, "up" or "down"; "none" leaves it fractional.
    edge: "within" drops the first pair that would exceed the capacity, and all behind; "across" still keeps that one.
    rank_by: an expert's best pairs are those of the highest "score", or score times weight ("weighted").

    Raises ConfigError for values out of range.
    """

    name: ClassVar[str] = "macs"

    gamma: float
    scope: Scope = "local"
    level: Level = "expert"
    isolation: Isolation = "batch"
    delta: float = 1.0
    rho: float = 0.5
    labels: ExpertModality | str | None = None
    normalise: Normalise = "images"
    capacity_from: CapacityFrom = "pairs"
    rounding: Rounding = "none"
    edge: Edge = "within"
    rank_by: RankBy = "score"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", check_gamma(self.gamma))
        for field, choices in _CHOICES.items():
            check_choice(field, getattr(self, field), get_args(choices))
        object.__setattr__(self, "delta", _number("delta", self.delta, math.inf))
        object.__setattr__(self, "rho", _number("rho", self.rho, 2.0))
        object.__setattr__(self, "labels", _labels(self.labels))
        if self.labels is not None and self.rho == 0:
            raise ConfigError("labels", "given", "None with rho = 0, where they would not act")

    @property
    def has_capacity(self) -> bool:
        return True

    @property
    def needs_images(self) -> bool:
        return True

    @property
    def needs_entropy(self) -> bool:
        return not math.isinf(self.gamma)

    def expert_modality(self) -> ExpertModality | None:
        """Return the labels, from their file if they are in one; None where rho = 0 or gamma = inf needs none.

        Raises ConfigError for rho above 0 without labels; FileNotFoundError; FileFormatError for another kind of file.
        """
        if self.rho == 0 or (self.labels is None and math.isinf(self.gamma)):
            return None
        if self.labels is None:
            raise ConfigError(
                "labels",
                None,
                f"labels of the experts for rho = {self.rho:g} (evenmoe calibrate-modality), or rho = 0",
            )
        return read_expert_modality(self.labels) if isinstance(self.labels, str) else self.labels

    def options(self) -> dict[str, object]:
        labels = self.labels.describe() if isinstance(self.labels, ExpertModality) else self.labels
        return super().options() | {"labels": labels}

    def check_context(self, ctx: RoutingContext) -> None:
        if self.isolation != "batch":
            require(ctx, "request_of_token_T", "isolation", self.isolation)
        if math.isinf(self.gamma):
            return
        require(ctx, "image_T", "policy", self.name)
        require(ctx, "entropy_T", "policy", self.name)
        if self.rho > 0:
            require(ctx, "modality_E", "rho", f"{self.rho:g}")

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        if math.isinf(self.gamma):
            return chosen_TE.clone()
        load = _WeightedLoad(self, list_pairs(chosen_TE), chosen_TE.shape, ctx, scores_TE.device)
        ranked_TE = scores_TE
        if self.rank_by == "weighted":
            ranked_TE = scores_TE.double() * (load.weight_T.double() / UNIT)[:, None]
        position_T = load.bins.groups.position_T
        priority = make_priority(load.pairs, ranked_TE, "score", "uniform", position_T, ctx)
        return load.pairs.written_to(chosen_TE, self._best(load, priority))

    def _best(self, load: _WeightedLoad, priority: Priority) -> Tensor:
        """Return [P] bool: the pairs that win in their bin or, under isolation="request", get lent room."""
        bins, weight_P = load.bins, load.weight_P
        bin_P = bins.of(load.pairs)
        kept_P = fitting_bins(bin_P, priority, weight_P, bins.limit_X, self.edge)
        if self.isolation != "request":
            return kept_P
        lost = (~kept_P).nonzero().view(-1)
        room_Y = bins.unused(bin_P[kept_P], weight_P[kept_P])
        lending_P = bins.lending().index_select(0, bin_P.index_select(0, lost))
        lent_P = fitting_bins(lending_P, priority.at(lost), weight_P.index_select(0, lost), room_Y, self.edge)
        return kept_P.index_copy_(0, lost, lent_P)


class _WeightedLoad:
    """The weights of a batch's pairs, and the bins with their limits, all in units of 1 / UNIT of a token."""

    def __init__(
        self, policy: Macs, pairs: Pairs, shape: torch.Size, ctx: RoutingContext, device: torch.device
    ) -> None:
        assert ctx.image_T is not None
        assert ctx.entropy_T is not None
        self.policy, self.pairs, self._ctx = policy, pairs, ctx
        self._num_tokens, self._num_experts = shape
        self._image_T = ctx.image_T.to(device)
        self._groups = make_groups(ctx, policy.scope, policy.isolation, self._num_tokens, device)
        self.weight_T = token_weights(
            ctx.entropy_T.to(device),
            self._image_T,
            self._groups.group_T,
            self._num_groups,
            policy.delta,
            policy.normalise,
        )
        self.weight_P = self.weight_T.index_select(0, pairs.token_P)

    @property
    def _num_groups(self) -> int:
        return self._groups.source_G.shape[0]

    @cached_property
    def bins(self) -> Bins:
        """The bins, with the limits C_j."""
        policy, group_T = self.policy, self._groups.group_T
        counted_T = self.pairs.count(self._num_tokens)
        if policy.capacity_from == "weight":
            counted_T = counted_T * self.weight_T
        pairs_G = counted_T.new_zeros(self._num_groups).index_add_(0, group_T, counted_T)
        if policy.capacity_from == "weight":
            pairs_G = -(-pairs_G // UNIT)
        bins = bins_for(self._ctx, self._groups, policy.level, policy.gamma, pairs_G, self._num_experts)
        limit_GB = bins.limit_X.view(self._num_groups, -1).double()
        if policy.rho > 0:
            share_G = visual_share(self.weight_T, self._image_T, group_T, self._num_groups)
            limit_GB = limit_GB * (1.0 + policy.rho * self._modality_B() * (share_G - 0.5)[:, None])
        return dataclasses.replace(bins, limit_X=_in_units(limit_GB, policy.rounding).view(-1))

    def _modality_B(self) -> Tensor:
        """Return [B]: m_j of each expert, or its mean over a device's experts; 0 for a device without any."""
        assert self._ctx.modality_E is not None
        modality_E = self._ctx.modality_E.to(self.weight_T.device).double()
        if self.policy.level == "expert":
            return modality_E
        copies_DE = copies_of_expert(self._ctx, self._num_experts, modality_E.device).double()
        return (copies_DE @ modality_E) / copies_DE.sum(1).clamp(min=1.0)


def _in_units(limit_GB: Tensor, rounding: Rounding) -> Tensor:
    units_GB = (limit_GB * UNIT).round().long()
    if rounding == "up":
        units_GB = -(-units_GB // UNIT) * UNIT
    elif rounding == "down":
        units_GB = units_GB // UNIT * UNIT
    return units_GB.clamp(min=UNIT)


_CHOICES = {
    "scope": Scope,
    "level": Level,
    "isolation": Isolation,
    "normalise": Normalise,
    "capacity_from": CapacityFrom,
    "rounding": Rounding,
    "edge": Edge,
    "rank_by": RankBy,
}


def _number(field: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= most:
        allowed = "a number of at least 0" if math.isinf(most) else f"a number from 0 to {most:g}"
        raise ConfigError(field, value, allowed)
    if math.isinf(float(value)):
        raise ConfigError(field, value, "finite")
    return float(value)


def _labels(value: object) -> ExpertModality | str | None:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return ExpertModality.from_data(value)
    if value is None or isinstance(value, ExpertModality | str):
        return value
    raise ConfigError("labels", value, "an ExpertModality, the file of one, or None")
