"""A batch being picked from a window: who is in, who still may come in. Shape letters: W requests, X entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.window import Floats, Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """What a batch may hold.

    batch_size: requests, at most.
    first: requests that come first, in this order; by default the oldest. Where one of them does not fit, nothing
        after it is taken.
    tokens_W, token_budget: [W] tokens of each request, and the most of a batch; both or neither.
    Raises ConfigError, ShapeError.
    """

    batch_size: int = 8
    first: Sequence[int] = (0,)
    tokens_W: Ints | None = None
    token_budget: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError("batch_size", self.batch_size, "at least 1")
        if (self.tokens_W is None) != (self.token_budget is None):
            raise ConfigError("token_budget", self.token_budget, "given together with tokens_W, or neither")
        if self.tokens_W is not None and self.token_budget is not None:
            if self.tokens_W.size and self.tokens_W.min() < 0:
                raise ConfigError("tokens_W", self.tokens_W.tolist(), "at least 0")
            if self.tokens_W.size and self.tokens_W[0] > self.token_budget:
                raise ConfigError(
                    "token_budget",
                    self.token_budget,
                    f"at least the {int(self.tokens_W[0])} tokens of the oldest request",
                )

    def check(self, num_waiting: int) -> None:
        """Raise unless these limits are for a window of `num_waiting` requests."""
        if self.tokens_W is not None and self.tokens_W.shape != (num_waiting,):
            raise ShapeError(
                f"tokens_W has shape {self.tokens_W.shape}; the window holds {num_waiting} requests"
            )
        is_inside = not num_waiting or (
            min(self.first, default=0) >= 0 and max(self.first, default=0) < num_waiting
        )
        if not is_inside or len(set(self.first)) != len(self.first):
            raise ConfigError("first", self.first, f"different requests from 0 to {num_waiting - 1}")

    def hold_all(self, num_waiting: int) -> bool:
        """Whether the whole window fits, so that there is nothing to choose."""
        fits = self.tokens_W is None or int(self.tokens_W.sum()) <= (self.token_budget or 0)
        return num_waiting <= self.batch_size and fits


class Picking:
    """The batch so far. `picked` is in the order of taking.

    base_X: the load of what runs beside the batch, [X]; None: nothing does.
    """

    def __init__(self, num_waiting: int, limits: Limits, base_X: Floats | None = None) -> None:
        self.limits, self.num_waiting, self.base_X = limits, num_waiting, base_X
        self.picked: list[int] = []
        self._most = min(limits.batch_size, num_waiting)
        self._tokens_left = limits.token_budget or 0
        self._fits_W: NDArray[np.bool_] | None = None
        if limits.tokens_W is not None:
            self._fits_W = limits.tokens_W <= self._tokens_left
        for index in limits.first:
            if not self.has_room or not self.fits(index):
                self._most = len(self.picked)
                break
            self.take(index)

    @property
    def room(self) -> int:
        """How many more requests the batch may have, where they fit."""
        return self._most - len(self.picked)

    @property
    def has_room(self) -> bool:
        """Whether the batch may have more requests and there is one that fits."""
        return len(self.picked) < self._most and (self._fits_W is None or bool(self._fits_W.any()))

    def fits(self, index: int) -> bool:
        """Whether the token budget has room for a request that is not yet in."""
        return self._fits_W is None or bool(self._fits_W[index])

    def open(self) -> list[int]:
        """The requests that may come in, by age."""
        if self._fits_W is not None:
            return np.flatnonzero(self._fits_W).tolist()
        is_picked = set(self.picked)
        return [index for index in range(self.num_waiting) if index not in is_picked]

    def take(self, index: int) -> int:
        """Put a request in; those that no longer fit are closed."""
        self.picked.append(index)
        if self._fits_W is not None:
            assert self.limits.tokens_W is not None
            self._tokens_left -= int(self.limits.tokens_W[index])
            self._fits_W &= self.limits.tokens_W <= self._tokens_left
            self._fits_W[index] = False
        return index

    def close(self, score_W: Floats, taken: int | None = None) -> None:
        """Make the score of every request that may not come in infinite, in place.

        taken: the one request taken since `score_W` was closed last, if it was.
        """
        if self._fits_W is not None:
            score_W[~self._fits_W] = np.inf
        else:
            score_W[self.picked if taken is None else taken] = np.inf

    def take_least(self, score_W: Floats) -> int:
        """Take the request of the least score. `score_W` must be closed, and is closed again, in place."""
        index = self.take(int(score_W.argmin()))
        self.close(score_W, index)
        return index

    def take_in_order(self, order: Iterable[int]) -> None:
        """Take what fits of `order` until the batch is full."""
        room, is_picked = self.room, set(self.picked)
        for index in order:
            if room <= 0:
                return
            if index not in is_picked and self.fits(index):
                self.take(index)
                room -= 1
