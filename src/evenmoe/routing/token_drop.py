"""Token Drop: an expert over capacity keeps only some of its tokens (CAI, section 3.2, Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Unpack, get_args

from torch import Tensor

from evenmoe.errors import check_choice
from evenmoe.routing.capacity_policy import CapacityOptions, CapacityPolicy
from evenmoe.routing.context import RoutingContext
from evenmoe.routing.pairs import list_pairs
from evenmoe.routing.priority import Keep, make_priority


@dataclass(frozen=True, kw_only=True, init=False, repr=False)
class TokenDrop(CapacityPolicy):
    """The model's top-k, less the pairs beyond capacity; a token may lose all of its experts.

    keep: what an expert keeps: the highest "score", the "first" or "last" tokens by position, or "random" ones
    (drawn from `RoutingContext.seed`). Ties are won by the smaller token index. The setting is stored as
    `keep_by`, because `keep` is the method; the constructor takes that name too, for `dataclasses.replace`.
    """

    name: ClassVar[str] = "token_drop"

    keep_by: Keep

    def __init__(
        self, *, keep: Keep = "score", keep_by: Keep | None = None, **shared: Unpack[CapacityOptions]
    ) -> None:
        super().__init__(**shared)
        object.__setattr__(self, "keep_by", keep if keep_by is None else keep_by)
        check_choice("keep", self.keep_by, get_args(Keep))

    def options(self) -> dict[str, object]:
        return {"keep" if key == "keep_by" else key: value for key, value in super().options().items()}

    def _keep(self, scores_TE: Tensor, chosen_TE: Tensor, ctx: RoutingContext) -> Tensor:
        if math.isinf(self.gamma):
            return chosen_TE.clone()
        num_tokens, num_experts = chosen_TE.shape
        pairs = list_pairs(chosen_TE)
        bins = self._bins(pairs.count(num_tokens), num_experts, ctx)
        priority = make_priority(pairs, scores_TE, self.keep_by, self.modality, bins.groups.position_T, ctx)
        return pairs.written_to(chosen_TE, self._best(bins.of(pairs), priority, bins))
