"""Priority: which pair goes first. Shape letters: T tokens, P pairs.

Pairs of equal priority are ranked by token index, then by expert index, which is the order of the list of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from evenmoe.routing.context import RoutingContext
from evenmoe.routing.pairs import Pairs

Keep = Literal["score", "first", "last", "random"]
Modality = Literal["uniform", "image-first", "text-first"]

_MASK_32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Priority:
    """An integer for each pair, in [0, 2**bits); the smaller, the sooner it is kept.

    At most 33 bits, so that a bin's number can stand before it in one sortable int64.
    """

    order_P: Tensor  # int32 or int64
    bits: int

    def at(self, index: Tensor) -> Priority:
        """Return the priorities of some of the pairs."""
        return Priority(self.order_P.index_select(0, index), self.bits)

    def within(self, bin_P: Tensor) -> Tensor:
        """Return [P]: integers that sort by bin, then by priority."""
        return (bin_P << self.bits) + self.order_P


def make_priority(
    pairs: Pairs, scores_TE: Tensor, keep: Keep, modality: Modality, position_T: Tensor, ctx: RoutingContext
) -> Priority:
    """Return the priority of each pair.

    `position_T` numbers the tokens of each source device, or of each request, from 0, so that a device that knows
    its own tokens alone draws the same; only keep="random" draws by it.
    """
    if pairs.flat_P.shape[0] == 0:
        return Priority(pairs.flat_P, 1)
    if keep == "score":
        priority = _by_score(pairs.values(scores_TE))
    elif keep == "first":
        priority = Priority(pairs.token_P, scores_TE.shape[0].bit_length())
    elif keep == "last":
        priority = Priority(scores_TE.shape[0] - 1 - pairs.token_P, scores_TE.shape[0].bit_length())
    else:
        position_P = position_T.index_select(0, pairs.token_P)
        place_P = _place_within_token(pairs.token_P, pairs.values(scores_TE))
        priority = Priority(_drawn(ctx.seed, position_P, place_P), 32)
    if modality == "uniform":
        return priority
    assert ctx.image_T is not None
    image_T = ctx.image_T.to(scores_TE.device)
    last_P = (image_T if modality == "image-first" else ~image_T).index_select(0, pairs.token_P)
    return Priority(priority.order_P.long() + (last_P.long() << priority.bits), priority.bits + 1)


def _by_score(scores_P: Tensor) -> Priority:
    if scores_P.dtype == torch.float64:
        # 64 bits do not fit beside a bin's number; ranks among the distinct scores do.
        distinct, order_P = torch.unique(-scores_P, return_inverse=True)
        return Priority(order_P, distinct.shape[0].bit_length())
    sortable_P, low, high = _sortable(scores_P)
    fits_32_bits = high - low < 2**31
    order_P = high - (sortable_P if fits_32_bits else sortable_P.long())
    return Priority(order_P, max((high - low).bit_length(), 1))


def _sortable(scores_P: Tensor) -> tuple[Tensor, int, int]:
    """Return int32 in the order of the scores, and their bounds; 0.0 and -0.0 are equal."""
    bits_P = scores_P.float().view(torch.int32)
    low, high = (int(value) for value in bits_P.aminmax())
    if low < 0:
        # Positive floats sort as their bits do; negative ones in the reverse order, and below.
        bits_P = (scores_P.float() + 0.0).view(torch.int32)
        bits_P = bits_P ^ ((bits_P >> 31) & 0x7FFFFFFF)
        low, high = (int(value) for value in bits_P.aminmax())
    return bits_P, low, high


def _drawn(seed: int, position_P: Tensor, place_P: Tensor) -> Tensor:
    """Return 32-bit hashes of (seed, position, place): no global state, the same on every device."""
    return _mixed(_mixed(position_P + _mixed_seed(seed)) ^ place_P)


def _place_within_token(token_P: Tensor, scores_P: Tensor) -> Tensor:
    """Return [P]: 0 for the best pair of its token, 1 for the next, and so on; pairs are listed by token.

    It stands for the expert in a draw: renumbering the experts changes nothing, nor does the last bit of a score, which
    may differ between one process and several.
    """
    count_T = torch.bincount(token_P)
    start_T = count_T.cumsum(0) - count_T
    slot_P = torch.arange(token_P.shape[0], device=token_P.device) - start_T.index_select(0, token_P)
    most = int(count_T.max())
    score_TK = scores_P.new_full((count_T.shape[0], most), -torch.inf)
    score_TK[token_P, slot_P] = scores_P
    mine_TK1, other_T1K = score_TK[:, :, None], score_TK[:, None, :]
    earlier_KK = torch.ones(most, most, dtype=torch.bool, device=token_P.device).tril(-1)
    is_before_TKK = (other_T1K > mine_TK1) | ((other_T1K == mine_TK1) & earlier_KK)
    return is_before_TKK.sum(2)[token_P, slot_P]


def _mixed(value_P: Tensor) -> Tensor:
    """Mix 32 bits by two xor-shift-multiply steps, in int64 so that no product is cut differently anywhere."""
    value_P = value_P & _MASK_32
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value_P = ((value_P ^ (value_P >> shift)) * factor) & _MASK_32
    return value_P ^ (value_P >> 16)


def _mixed_seed(seed: int) -> int:
    value = seed % 2**64
    value = ((value ^ (value >> 32)) * 0xD6E8FEB86659FD93) % 2**64
    return (value ^ (value >> 32)) & _MASK_32
