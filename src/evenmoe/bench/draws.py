"""Draws: routing made up so that per-expert counts are exactly those of given shares.

Shape letters: T tokens, E experts, K top-k. numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, ShapeError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LOGIT_STD = 1.2
"""Spread of a token's logits. With 64 experts its top 8 then hold about half of the softmax, as in trained models."""
EXTRA_ROUNDS = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnRouting:
    """One layer's routing: index_TK is each token's top-k, best first, logits_TE what it is the top-k of."""

    index_TK: Ints
    logits_TE: NDArray[np.float32]

    @property
    def num_tokens(self) -> int:
        return int(self.index_TK.shape[0])

    @property
    def top_k(self) -> int:
        return int(self.index_TK.shape[1])

    @property
    def num_experts(self) -> int:
        return int(self.logits_TE.shape[1])

    @property
    def chosen_TE(self) -> NDArray[np.bool_]:
        """True at each token's top-k."""
        chosen_TE = np.zeros(self.logits_TE.shape, dtype=bool)
        np.put_along_axis(chosen_TE, self.index_TK, True, axis=1)
        return chosen_TE

    @property
    def count_E(self) -> Ints:
        """Pairs of each expert."""
        return np.bincount(self.index_TK.reshape(-1), minlength=self.num_experts)


def draw_routing(share_E: Floats, num_tokens: int, top_k: int, seed: int) -> DrawnRouting:
    """Draw the top-k of `num_tokens` tokens so that expert e has exactly `expert_counts(...)[e]` of the T * K pairs.

    Every token gets `top_k` distinct experts; which tokens share experts is otherwise random. The logits are normal
    with a standard deviation of LOGIT_STD per token, handed out so that the top-k are the chosen ones and, among the
    chosen and among the others, popular experts tend to score higher. The same seed draws the same routing.
    Raises ShapeError for shares that are no vector, ConfigError for shares that no top-k routing can have.
    """
    count_E = expert_counts(share_E, num_tokens, top_k)
    rng = np.random.default_rng(seed)
    expert_S = np.repeat(np.arange(count_E.shape[0]), count_E)
    # Slot j goes to token j mod T: an expert has at most T slots in a row, so no token gets it twice.
    index_TK = expert_S.reshape(top_k, num_tokens).T[rng.permutation(num_tokens)]
    index_TK = _mixed(index_TK, rng)
    return _scored(index_TK, share_E, rng)


def expert_counts(share_E: Floats, num_tokens: int, top_k: int) -> Ints:
    """Return [E]: T * K pairs shared out by largest remainder (ties to the lower index), at most T to one expert.

    Raises ConfigError for a share above 1 / K, for negative shares, or for fewer than K experts that have any.
    """
    share_E = np.asarray(share_E, dtype=np.float64)
    if share_E.ndim != 1 or share_E.shape[0] < top_k:
        raise ShapeError(f"shares of shape {share_E.shape} cannot give each token {top_k} distinct experts")
    if not np.isfinite(share_E).all() or (share_E < 0).any() or share_E.sum() <= 0:
        raise ConfigError("share", share_E.tolist(), "finite numbers of at least 0, not all 0")
    share_E = share_E / share_E.sum()
    if share_E.max() > (1 + 1e-9) / top_k:
        raise ConfigError(
            "share",
            float(share_E.max()),
            f"at most 1 / {top_k}: a token has an expert at most once, so no expert has more of all pairs",
        )
    num_pairs = num_tokens * top_k
    exact_E = np.minimum(share_E * num_pairs, num_tokens)
    count_E = np.floor(exact_E + 1e-9).astype(np.int64)
    missing = num_pairs - int(count_E.sum())
    # Shares are rounded already: remainders that differ by less are the same one.
    order_E = np.argsort(-np.round(exact_E - count_E, 9), kind="stable")
    with_room_E = order_E[count_E[order_E] < num_tokens]
    count_E[with_room_E[:missing]] += 1
    return count_E


def _mixed(index_TK: Ints, rng: np.random.Generator) -> Ints:
    """Trade experts between random pairs of tokens until who shares experts with whom is random.

    A trade keeps what two tokens have in common and deals the rest out anew (the "curveball" walk over 0/1 matrices of
    fixed row and column sums: Strona et al. 2014), so counts stay exact and experts distinct.
    """
    num_tokens, top_k = index_TK.shape
    half = num_tokens // 2
    index_TK = index_TK.copy()
    for _ in range(EXTRA_ROUNDS + math.ceil(math.log2(num_tokens + 1)) if half else 0):
        order_T = rng.permutation(num_tokens)
        first, second = order_T[:half], order_T[half : 2 * half]
        left, right = index_TK[first], index_TK[second]
        same = left[:, :, None] == right[:, None, :]
        key = rng.random((half, 2 * top_k))
        key[:, :top_k][same.any(2)] = -1.0  # what both have stays: first places for one, last for the other
        key[:, top_k:][same.any(1)] = 2.0
        dealt = np.take_along_axis(
            np.concatenate([left, right], axis=1), key.argsort(1, kind="stable"), axis=1
        )
        index_TK[first], index_TK[second] = dealt[:, :top_k], dealt[:, top_k:]
    return index_TK


def _scored(index_TK: Ints, share_E: Floats, rng: np.random.Generator) -> DrawnRouting:
    num_tokens, top_k = index_TK.shape
    num_experts = share_E.shape[0]
    liking_TE = np.log(np.maximum(share_E / share_E.max(), 1e-6)) + rng.gumbel(size=(num_tokens, num_experts))
    np.put_along_axis(liking_TE, index_TK, np.take_along_axis(liking_TE, index_TK, axis=1) + 1e3, axis=1)
    order_TE = np.argsort(-liking_TE, axis=1, kind="stable")
    value_TE = -np.sort(-rng.normal(scale=LOGIT_STD, size=(num_tokens, num_experts)), axis=1)
    logits_TE = np.empty((num_tokens, num_experts), dtype=np.float32)
    np.put_along_axis(logits_TE, order_TE, value_TE.astype(np.float32), axis=1)
    return DrawnRouting(index_TK=order_TE[:, :top_k].astype(np.int64), logits_TE=logits_TE)
