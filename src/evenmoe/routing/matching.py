"""Matching: pairs that fit both their bin's room and their token's. Shape letters: T tokens, P pairs, X bins.

Taking pairs greedily, best first, while bin and token both have room, gives the one stable matching of bins and
tokens, because both rank pairs by the same order. Deferred acceptance finds it in a few rounds over all the pairs:
every bin offers its best pairs; a token with enough offers refuses whatever is worse than them, offered or not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evenmoe.routing.priority import Priority
from evenmoe.routing.selection import best_of_bins

_NEVER_REFUSES = 2**63 - 1


def matched(token_P: Tensor, bin_P: Tensor, priority: Priority, room_X: Tensor, quota_T: Tensor) -> Tensor:
    """Return the indices of the greedy choice, smallest priority first, ties by place in the list.

    At most `room_X` pairs of each bin and `quota_T` of each token; every listed token has a quota above 0.
    """
    # Few offers are refused, so a bin seldom gets far beyond its first `room_X` pairs. Only if one does, the
    # whole list is ranked.
    near_X = room_X + room_X // 4 + 8
    worst_T = torch.full_like(quota_T, _NEVER_REFUSES)
    offers = _Offers.listed(token_P, bin_P, priority)
    near = offers.at(best_of_bins(bin_P, priority, near_X).nonzero().view(-1)).by_bin(priority)
    taken, worst_T = _rounds(near, room_X, quota_T, worst_T)
    used_X = torch.bincount(bin_P.index_select(0, taken), minlength=room_X.shape[0])
    listed_X = torch.bincount(bin_P, minlength=room_X.shape[0])
    if not bool(((used_X < room_X) & (listed_X > near_X)).any()):
        return taken
    # What was refused so far stays refused.
    left = (offers.key_P <= worst_T.index_select(0, token_P)).nonzero().view(-1)
    return _rounds(offers.at(left).by_bin(priority), room_X, quota_T, worst_T)[0]


@dataclass(frozen=True)
class _Offers:
    """Pairs that may be offered. No two keys are equal; a token prefers the smaller."""

    pair_P: Tensor
    token_P: Tensor
    bin_P: Tensor
    key_P: Tensor

    @classmethod
    def listed(cls, token_P: Tensor, bin_P: Tensor, priority: Priority) -> _Offers:
        pair_P = torch.arange(bin_P.shape[0], device=bin_P.device)
        return cls(pair_P, token_P, bin_P, priority.order_P.long() * bin_P.shape[0] + pair_P)

    def at(self, index: Tensor) -> _Offers:
        fields = (self.pair_P, self.token_P, self.bin_P, self.key_P)
        return _Offers(*(field.index_select(0, index) for field in fields))

    def by_bin(self, priority: Priority) -> _Offers:
        return self.at(priority.at(self.pair_P).within(self.bin_P).sort(stable=True)[1])


def _rounds(offers: _Offers, room_X: Tensor, quota_T: Tensor, worst_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of the offers that hold, and the key beyond which each token refuses."""
    while True:
        count_X = torch.bincount(offers.bin_P, minlength=room_X.shape[0])
        end_X = count_X.cumsum(0) - count_X + room_X
        place_P = torch.arange(offers.bin_P.shape[0], device=offers.bin_P.device)
        made = (place_P < end_X.index_select(0, offers.bin_P)).nonzero().view(-1)
        worst_T = _worst_held(
            offers.token_P.index_select(0, made), offers.key_P.index_select(0, made), quota_T, worst_T
        )
        left = (offers.key_P <= worst_T.index_select(0, offers.token_P)).nonzero().view(-1)
        if left.shape[0] == place_P.shape[0]:
            return offers.pair_P.index_select(0, made), worst_T
        offers = offers.at(left)


def _worst_held(token_P: Tensor, key_P: Tensor, quota_T: Tensor, worst_T: Tensor) -> Tensor:
    """Return [T]: the key of the worst offer that a token holds, where it has as many offers as it may hold."""
    count_T = torch.bincount(token_P, minlength=quota_T.shape[0])
    full_T = (count_T >= quota_T) & (count_T > 0)
    rivals = full_T.index_select(0, token_P).nonzero().view(-1)
    keys, by_key = key_P.index_select(0, rivals).sort()
    by_token = token_P.index_select(0, rivals).index_select(0, by_key).sort(stable=True)[1]
    full = full_T.nonzero().view(-1)
    rivals_T = torch.where(full_T, count_T, 0)
    place_T = rivals_T.cumsum(0) - rivals_T + quota_T - 1
    worst = keys.index_select(0, by_token.index_select(0, place_T.index_select(0, full)))
    return worst_T.index_copy(0, full, worst)
