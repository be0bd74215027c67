"""Selection: each bin keeps its best pairs. Shape letters: P pairs, X bins of all groups, Q buckets per bin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evenmoe.routing.priority import Priority

Edge = Literal["within", "across"]
"""Whether a bin's load stays within its limit, or the pair that crosses it is still kept."""

_MOST_BUCKETS = 2**17


def best_of_bins(bin_P: Tensor, priority: Priority, limit_X: Tensor) -> Tensor:
    """Return [P] bool: the best `limit_X` pairs of each bin; ties are won by the pair that is listed first.

    A histogram of priorities settles nearly every pair: in each bin, whole buckets fit or do not, and only the one
    bucket at the limit has to be sorted. That costs a third of sorting all pairs.
    """
    num_bins = limit_X.shape[0]
    bucket_bits = _bucket_bits(bin_P.shape[0], num_bins, priority.bits)
    bucket_P = (bin_P << bucket_bits).add_(priority.order_P >> (priority.bits - bucket_bits))
    count_XQ = torch.bincount(bucket_P, minlength=num_bins << bucket_bits).view(num_bins, -1)
    upto_XQ = count_XQ.cumsum(1)
    before_XQ = upto_XQ - count_XQ
    fits_XQ, starts_XQ = upto_XQ <= limit_X[:, None], before_XQ < limit_X[:, None]
    # Comparing long vectors is slow, so verdicts are bytes whose bits are the answers: 2 kept, 1 contested, 0 lost.
    verdict_XQ = fits_XQ.view(torch.uint8) + starts_XQ.view(torch.uint8)
    verdict_P = verdict_XQ.view(-1).index_select(0, bucket_P)
    kept_P = (verdict_P >> 1).view(torch.bool)
    contested = (verdict_P & 1).view(torch.bool).nonzero().view(-1)
    if contested.shape[0] == 0:
        return kept_P
    last_X1 = (starts_XQ.sum(1, keepdim=True) - 1).clamp(min=0)  # the bucket at the limit
    room_X = limit_X - before_XQ.gather(1, last_X1).view(-1)
    won = best_of_rows(bin_P.index_select(0, contested), priority.at(contested), room_X)
    return kept_P.index_fill_(0, contested.index_select(0, won), True)


def best_of_rows(bin_P: Tensor, priority: Priority, limit_X: Tensor) -> Tensor:
    """Return the indices of what `best_of_bins` keeps, for few pairs, or many bins with few pairs each."""
    keys, order = priority.within(bin_P).sort(stable=True)
    bin_S = keys >> priority.bits
    count_X = torch.bincount(bin_P, minlength=limit_X.shape[0])
    end_X = count_X.cumsum(0) - count_X + limit_X
    within = torch.arange(keys.shape[0], device=keys.device) < end_X.index_select(0, bin_S)
    return order.index_select(0, within.nonzero().view(-1))


def fitting_bins(bin_P: Tensor, priority: Priority, weight_P: Tensor, limit_X: Tensor, edge: Edge) -> Tensor:
    """Return [P] bool: the best pairs of each bin, as long as their weights (positive integers) fit its limit.

    What comes behind the first pair that does not fit is not kept either, even if it is lighter.
    """
    keys, order = priority.within(bin_P).sort(stable=True)
    bin_S, weight_S = keys >> priority.bits, weight_P.index_select(0, order)
    total_X = torch.zeros_like(limit_X).index_add_(0, bin_P, weight_P)
    start_X = total_X.cumsum(0) - total_X
    upto_S = weight_S.cumsum(0) - start_X.index_select(0, bin_S)
    limit_S = limit_X.index_select(0, bin_S)
    fits_S = upto_S <= limit_S if edge == "within" else upto_S - weight_S < limit_S
    return torch.empty_like(fits_S).index_copy_(0, order, fits_S)


def _bucket_bits(num_pairs: int, num_bins: int, priority_bits: int) -> int:
    """About as many buckets as pairs: more cost too much to add up, fewer leave too much to sort."""
    per_bin = max(min(num_pairs, _MOST_BUCKETS) // max(num_bins, 1), 1)
    return min(per_bin.bit_length() - 1, priority_bits)
