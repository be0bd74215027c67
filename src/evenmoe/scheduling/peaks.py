"""Our own strategies: `peak_excess` evens what the straggler really costs, `auto` says whether it pays.

Shape letters: W requests in the window, B of the batch, P exchanges, L layers, D entries of a layer.
"""

from __future__ import annotations

import numpy as np

from evenmoe.scheduling.greedy import greedy_variance
from evenmoe.scheduling.ordered import fcfs
from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Floats, Ints, Window

_MOST_CELLS = 1 << 16
"""Numbers looked at in one round of exchanges; where there are more, products choose which."""

_RELATIVE_TOLERANCE = 1e-12
"""An exchange that gains less than this, beside the batch's load, gains nothing but rounding."""


def straggler(load_LD: Floats) -> float:
    """Sum over layers of the peaks over the sum of the means of a batch's load; 1 where there is no load."""
    total = float(load_LD.sum())
    return float(_peak(load_LD)) * load_LD.shape[1] / total if total > 0 else 1.0


def peak_excess(window: Window, picking: Picking, exchanges: int) -> None:
    """The batch of greedy_variance, then members exchanged for others while that lowers the excess of its load.

    There are at most `exchanges` exchanges, each the best of all; ties go to the earlier taken, then to the older.
    Where a window is too long to look at all of them, those are looked at that leave the least variance.
    """
    num_fixed = len(picking.picked)
    greedy_variance(window, picking)
    if not exchanges or len(picking.picked) == num_fixed:
        return
    search = _Exchanges(window, picking, num_fixed)
    for _ in range(exchanges):
        exchange = search.best()
        if exchange is None:
            break
        search.make(*exchange)


def auto(window: Window, picking: Picking, exchanges: int, *, min_depth: float, min_gain: float) -> None:
    """`peak_excess`, but `fcfs` where fewer than min_depth batches wait or the straggler factor would fall too little.

    The gain is 1 - (straggler factor of what peak_excess picks) / (that of fcfs); it must reach `min_gain`.
    """
    size = picking.limits.batch_size
    oldest = Picking(len(window), picking.limits, picking.base_X)
    fcfs(window, oldest)
    if len(window) >= min_depth * size:
        most = (1.0 - min_gain) * straggler(batch_load(window, oldest))
        if most >= 1.0:  # no batch has less
            peak_excess(window, picking, exchanges)
            if straggler(batch_load(window, picking)) <= most:
                return
    picking.picked = oldest.picked


def batch_load(window: Window, picking: Picking) -> Floats:
    """[L, D]: the load of the batch so far, with what runs beside it."""
    load_LD = np.add.reduce(window.loads(picking.picked))
    if picking.base_X is not None:
        load_LD += picking.base_X.reshape(load_LD.shape)
    return np.asarray(load_LD)


def _peak(load: Floats) -> Floats:
    """Sum over layers of the peaks, [...], of loads [L, D, ...]."""
    peak = np.maximum.reduce(load, 1)
    return np.asarray(peak[0] if len(peak) == 1 else np.add.reduce(peak))


class _Exchanges:
    """Exchanges of a member of the batch, not of the first `num_fixed`, for a request outside.

    An exchange is a pair (place among the members, other). A surplus is D times what each entry has above the mean
    of its layer: its peaks, summed over layers, are D times the excess, and exact for whole numbers.
    """

    def __init__(self, window: Window, picking: Picking, num_fixed: int) -> None:
        self.window, self.picking, self.num_fixed = window, picking, num_fixed
        self.picked = np.array(picking.picked)
        self.member_B = self.picked[num_fixed:]  # a view: they change together
        self.most = max(1, _MOST_CELLS // window.length)
        is_short = len(self.member_B) * len(window) <= self.most
        self.surplus_XW = window.surplus_by_entry() if is_short else None
        load_LD = batch_load(window, picking)
        self.surplus_LD = load_LD * load_LD.shape[1] - load_LD.sum(1, keepdims=True)
        self.tolerance = _RELATIVE_TOLERANCE * load_LD.shape[1] * float(load_LD.sum())
        self.first_L = np.arange(0, window.length, load_LD.shape[1])
        self.dot_BW: Floats | None = None  # of members with all, less their means; kept once it is needed
        self.dot_W: Floats | None = None  # of the batch's load with all

    def best(self) -> tuple[int, int] | None:
        """The exchange that lowers the excess most, of equals the earlier taken, the older other; None if none does."""
        place_P, other_P = self._may_gain()
        if len(place_P) > self.most:
            place_P, other_P = self._likely(place_P, other_P)
        if not len(place_P):
            return None
        after_P = self._after(place_P, other_P)
        best = int(after_P.argmin())
        if after_P.item(best) >= _peak(self.surplus_LD) - self.tolerance:
            return None
        return place_P.item(best), other_P.item(best)

    def make(self, place: int, other: int) -> None:
        """Put `other` in the place of the member there."""
        member = self.member_B.item(place)
        if self.surplus_XW is not None:
            change_X = self.surplus_XW[:, other] - self.surplus_XW[:, member]
            self.surplus_LD += change_X.reshape(self.surplus_LD.shape)
        else:
            member_LD, other_LD = self.window.surplus([member, other])
            self.surplus_LD += other_LD - member_LD
        self.picking.picked[self.num_fixed + place] = self.member_B[place] = other
        if self.dot_BW is not None and self.dot_W is not None:
            dot_W = self.window.centred_dots(other)
            self.dot_W += dot_W - self.dot_BW[place]
            self.dot_BW[place] = dot_W

    def _after(self, place_P: Ints, other_P: Ints) -> Floats:
        """[P]: D times the excess after each exchange."""
        if self.surplus_XW is None:
            surplus_PLD = self.window.surplus(other_P)
            surplus_PLD -= self.window.surplus(self.member_B.take(place_P))
            surplus_PLD += self.surplus_LD
            return np.asarray(np.maximum.reduce(surplus_PLD, 2).sum(1))
        rest_XB = self.surplus_LD.reshape(-1, 1) - self.surplus_XW.take(self.member_B, axis=1)
        surplus_XP = self.surplus_XW.take(other_P, axis=1)
        surplus_XP += rest_XB.take(place_P, axis=1)
        return _peak(surplus_XP.reshape(*self.surplus_LD.shape, -1))

    def _may_gain(self) -> tuple[Ints, Ints]:
        """[P], [P]: the exchanges that lower the load where it peaks now, beside the mean: no other can gain."""
        entry_L = self.surplus_LD.argmax(1) + self.first_L
        if self.surplus_XW is not None:
            at_peak_W = np.add.reduce(self.surplus_XW.take(entry_L, axis=0))
        else:
            at_peak_W = self.window.surplus_at(entry_L)
        most_B = at_peak_W.take(self.member_B) - self.tolerance
        at_peak_W[self.picked] = np.inf
        gains_BW = at_peak_W < most_B[:, None]
        tokens_W, budget = self.picking.limits.tokens_W, self.picking.limits.token_budget
        if tokens_W is not None and budget is not None:
            left = budget - int(tokens_W[self.picked].sum())
            gains_BW &= tokens_W - tokens_W[self.member_B, None] <= left
        place_P, other_P = gains_BW.nonzero()
        return place_P, other_P

    def _likely(self, place_P: Ints, other_P: Ints) -> tuple[Ints, Ints]:
        """Of these exchanges, as many as are looked at: those that leave the least variance."""
        window = self.window
        if self.dot_BW is None or self.dot_W is None:
            self.dot_BW = np.stack([window.centred_dots(member) for member in self.member_B])
            self.dot_W = window.dots_with(batch_load(window, self.picking).ravel(), centred=True)
        # of l - v_i + v_j, less what all exchanges share
        own_W = window.variation_W
        joins_W, leaves_B = own_W + 2.0 * self.dot_W, (own_W - 2.0 * self.dot_W)[self.member_B]
        after_P = (joins_W + leaves_B[:, None] - 2.0 * self.dot_BW)[place_P, other_P]
        likely = np.sort(after_P.argpartition(self.most - 1)[: self.most])
        return place_P[likely], other_P[likely]
