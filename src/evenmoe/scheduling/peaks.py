"""Our own strategies: `peak_excess` evens what the straggler really costs, `auto` says whether it pays.

Shape letters: W requests in the window, N candidates, B requests of the batch, L layers, D entries of a layer.
"""

from __future__ import annotations

import numpy as np

from evenmoe.scheduling.ordered import fcfs
from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Ints, Window

_MOST_CELLS = 1 << 17
"""Numbers looked at in one round of exchanges; where there are more, products choose which."""

_LEAST_SHORTLIST = 8


def excess(load: Floats) -> Floats:
    """Sum over layers of peak - mean, [...], of loads [..., L, D]: what the busiest device makes the others wait."""
    return np.asarray((load.max(-1) - load.mean(-1)).sum(-1))


def straggler(window: Window, picked: list[int]) -> float:
    """Sum over layers of the peaks over the sum of the means of a batch's load; 1 where there is no load."""
    load_LD = window.loads(picked).sum(0)
    mean = float(load_LD.mean(-1).sum())
    return float(load_LD.max(-1).sum()) / mean if mean > 0 else 1.0


def peak_excess(window: Window, picking: Picking, shortlist: int, exchanges: int) -> None:
    """Add the candidate with the least excess of l + v, then exchange members for others while that lowers it.

    Where the window is longer than `shortlist`, each step looks at that many candidates, those of the least variance,
    and at fewer where load vectors are very long.
    There are at most `exchanges` exchanges, each the best of all; ties go to the earlier taken, then to the older.
    """
    num_fixed = len(picking.picked)
    search = _Search(window, picking)
    while picking.has_room:
        search.add(picking.take(search.best_candidate(shortlist)))
    for _ in range(exchanges):
        if not search.exchange(num_fixed):
            break


def auto(
    window: Window, picking: Picking, shortlist: int, exchanges: int, *, min_depth: float, min_gain: float
) -> None:
    """`peak_excess`, but `fcfs` where fewer than min_depth batches wait or the straggler factor would fall too little.

    The gain is 1 - (straggler factor of what peak_excess picks) / (that of fcfs); it must reach `min_gain`.
    """
    size = picking.limits.batch_size
    oldest = Picking(len(window), picking.limits)
    fcfs(window, oldest)
    if len(window) < min_depth * size:
        picking.picked = oldest.picked
        return
    peak_excess(window, picking, shortlist, exchanges)
    if straggler(window, picking.picked) > (1.0 - min_gain) * straggler(window, oldest.picked):
        picking.picked = oldest.picked


def _peak(load: Floats) -> Floats:
    """Sum over layers of the peaks, [...], of loads [..., L, D]."""
    peak = load.max(-1)
    return np.asarray(peak[..., 0] if peak.shape[-1] == 1 else peak.sum(-1))


class _Search:
    """The batch's load, and for long windows its products with every candidate."""

    def __init__(self, window: Window, picking: Picking) -> None:
        self.window, self.picking = window, picking
        self.load_LD = window.loads(picking.picked).sum(0)
        self.num_entries = window.length // window.num_layers
        self.mean_W = window.total_W / self.num_entries
        scale = float(self.mean_W.max(initial=0.0)) * self.num_entries * picking.limits.batch_size
        self.tolerance = 1e-12 * scale
        self.score_W: Floats | None = None
        self.load_WLD: Floats | None = None

    def best_candidate(self, shortlist: int) -> int:
        """The open candidate of the least excess; the oldest of equals."""
        if len(self.window) <= shortlist:
            if self.load_WLD is None:
                self.load_WLD = self.window.loads()
            excess_W = _peak(self.load_WLD + self.load_LD) - self.mean_W
            excess_W[~self.picking.is_open_W] = np.inf
            return int((excess_W <= excess_W[excess_W.argmin()] + self.tolerance).argmax())
        most = min(shortlist, max(_LEAST_SHORTLIST, _MOST_CELLS // (8 * self.window.length)))
        likely_N = self._likely(np.flatnonzero(self.picking.is_open_W), most)
        excess_N = _peak(self.window.loads(likely_N) + self.load_LD) - self.mean_W[likely_N]
        return int(likely_N[(excess_N <= excess_N.min() + self.tolerance).argmax()])

    def add(self, index: int) -> None:
        """The batch has one more."""
        self.load_LD += self.window.loads([index])[0]
        if self.score_W is not None:
            self.score_W += 2.0 * self.window.centred_dots(index)

    def exchange(self, num_fixed: int) -> bool:
        """Exchange one member, not of the first `num_fixed`, for one outside where that gains most; whether it did."""
        members = np.array(self.picking.picked[num_fixed:], dtype=np.int64)
        is_outside_W = np.ones(len(self.window), dtype=bool)
        is_outside_W[self.picking.picked] = False
        outside_N = np.flatnonzero(is_outside_W)
        if not members.size or not outside_N.size:
            return False
        place_P, other_P = self._exchanges(members, outside_N)
        member_P = members[place_P]
        load_PLD = self.window.loads(other_P) if self.load_WLD is None else self.load_WLD[other_P]
        load_PLD += (self.load_LD - self.window.loads(members))[place_P]
        excess_P = _peak(load_PLD) - self.mean_W[other_P] + self.mean_W[member_P]
        if self.picking.limits.tokens_W is not None:
            excess_P[~self._fits(member_P, other_P)] = np.inf
        least = float(excess_P.min())
        if least >= float(_peak(self.load_LD)) - 2 * self.tolerance:
            return False
        best = int((excess_P <= least + self.tolerance).argmax())
        member, other = int(member_P[best]), int(other_P[best])
        self.picking.picked[self.picking.picked.index(member)] = other
        self.load_LD = self.window.loads(self.picking.picked).sum(0)
        self.score_W = None
        return True

    def _exchanges(self, members: Ints, outside_N: Ints) -> tuple[Ints, Ints]:
        """Pairs (number of the member, other), in order: all of them, or those of the least variance afterwards."""
        place_P, other_P = (
            np.repeat(np.arange(len(members)), len(outside_N)),
            np.tile(outside_N, len(members)),
        )
        most = max(1, _MOST_CELLS // self.window.length)
        if most >= len(place_P):
            return place_P, other_P
        score_W, own_W = self._variance_score(), self.window.variation_W
        dot_BN = np.stack([self.window.centred_dots(member)[outside_N] for member in members.tolist()])
        # of l - v_i + v_j, less what all exchanges share; score_i counts the member's own product twice
        after_BN = (2.0 * own_W[members] - score_W[members])[:, None] + score_W[outside_N] - 2.0 * dot_BN
        likely = np.sort(np.argpartition(after_BN.ravel(), most - 1)[:most])
        return place_P[likely], other_P[likely]

    def _fits(self, member_P: Ints, other_P: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        tokens_W = self.picking.limits.tokens_W
        assert tokens_W is not None
        left = (self.picking.limits.token_budget or 0) - int(tokens_W[self.picking.picked].sum())
        return np.asarray(tokens_W[other_P] - tokens_W[member_P] <= left)

    def _likely(self, open_N: Ints, shortlist: int) -> Ints:
        """`shortlist` of the candidates, by age: those of the least Var(l + v)."""
        if len(open_N) <= shortlist:
            return open_N
        score_N = self._variance_score()[open_N]
        return np.asarray(open_N[np.sort(np.argpartition(score_N, shortlist - 1)[:shortlist])])

    def _variance_score(self) -> Floats:
        """[W]: X * Var(l + v) less what does not depend on v."""
        if self.score_W is None:
            self.score_W = self.window.variation_W
            for index in self.picking.picked:
                self.score_W += 2.0 * self.window.centred_dots(index)
        return self.score_W
