"""Our own strategies: `peak_excess` evens what the straggler really costs, `auto` says whether it pays.

Shape letters: W requests in the window, N candidates, B requests of the batch, L layers, D entries of a layer.
"""

from __future__ import annotations

import numpy as np

from evenmoe.scheduling.greedy import tolerance_of
from evenmoe.scheduling.ordered import fcfs
from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Ints, Window

_MOST_CELLS = 1 << 17
"""Numbers looked at in one round of exchanges; where there are more, products choose which."""


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

    Where the window is longer than `shortlist`, each step looks at that many candidates, those of the least variance.
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
        open_N = np.flatnonzero(self.picking.is_open_W)
        if len(self.window) > shortlist:
            open_N = self._likely(open_N, shortlist)
            load_NLD = self.window.loads(open_N)
        else:
            if self.load_WLD is None:
                self.load_WLD = self.window.loads()
            load_NLD = self.load_WLD[open_N]
        load_NLD += self.load_LD
        excess_N = load_NLD.max(-1).sum(-1) - self.mean_W[open_N]
        return int(open_N[(excess_N <= excess_N.min() + self.tolerance).argmax()])

    def add(self, index: int) -> None:
        """The batch has one more."""
        self.load_LD += self.window.loads([index])[0]
        if self.score_W is not None:
            self.score_W += 2.0 * self._centred_dots(index)

    def exchange(self, num_fixed: int) -> bool:
        """Exchange one member, not of the first `num_fixed`, for one outside where that gains most; whether it did."""
        members = np.array(self.picking.picked[num_fixed:], dtype=np.int64)
        is_outside_W = np.ones(len(self.window), dtype=bool)
        is_outside_W[self.picking.picked] = False
        outside_N = np.flatnonzero(is_outside_W)
        if not members.size or not outside_N.size:
            return False
        member_P, other_P = self._exchanges(members, outside_N)
        change_PLD = self.window.loads(other_P) - self.window.loads(member_P)
        excess_P = (self.load_LD + change_PLD).max(-1).sum(-1) - self.mean_W[other_P] + self.mean_W[member_P]
        excess_P[~self._fits(member_P, other_P)] = np.inf
        least = float(excess_P.min())
        if least >= float(self.load_LD.max(-1).sum()) - self.tolerance:
            return False
        best = int((excess_P <= least + self.tolerance).argmax())
        member, other = int(member_P[best]), int(other_P[best])
        self.picking.picked[self.picking.picked.index(member)] = other
        self.load_LD = self.window.loads(self.picking.picked).sum(0)
        self.score_W = None
        return True

    def _exchanges(self, members: Ints, outside_N: Ints) -> tuple[Ints, Ints]:
        """Pairs (member, other), all of them or for each member those of the least variance afterwards."""
        most = max(1, _MOST_CELLS // (self.window.length * len(members)))
        if most >= len(outside_N):
            return np.repeat(members, len(outside_N)), np.tile(outside_N, len(members))
        score_N = self._variance_score()[outside_N]
        likely = []
        for member in members.tolist():
            after_N = score_N - 2.0 * self._centred_dots(member)[outside_N]
            likely.append(outside_N[np.sort(np.argpartition(after_N, most - 1)[:most])])
        return np.repeat(members, most), np.concatenate(likely)

    def _fits(self, member_P: Ints, other_P: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        tokens_W = self.picking.limits.tokens_W
        if tokens_W is None:
            return np.ones(len(member_P), dtype=bool)
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
                self.score_W += 2.0 * self._centred_dots(index)
        return self.score_W

    def _centred_dots(self, index: int) -> Floats:
        mean_W = self.mean_W
        share = mean_W[index] * self.num_entries * self.num_entries / self.window.length
        return np.asarray(self.window.dots(index) - share * mean_W)
