"""A batch being picked from a window: who is in, who still may come in. Shape letter: W requests."""

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
        allowed = f"different requests from 0 to {num_waiting - 1}"
        if len(set(self.first)) != len(self.first):
            raise ConfigError("first", self.first, allowed)
        if num_waiting and any(not 0 <= index < num_waiting for index in self.first):
            raise ConfigError("first", self.first, allowed)


class Picking:
    """The batch so far. `picked` is in the order of taking."""

    def __init__(self, num_waiting: int, limits: Limits) -> None:
        self.limits = limits
        self.picked: list[int] = []
        self.is_open_W: NDArray[np.bool_] = np.ones(num_waiting, dtype=bool)
        self._most = min(limits.batch_size, num_waiting)
        self._tokens_left = limits.token_budget or 0
        for index in limits.first:
            if not self.has_room or not self.is_open_W[index]:
                self.is_open_W[:] = False
                break
            self.take(index)

    @property
    def has_room(self) -> bool:
        """Whether the batch may have more requests and there is one that fits."""
        return len(self.picked) < self._most and (self.limits.tokens_W is None or bool(self.is_open_W.any()))

    def take(self, index: int) -> int:
        """Put a request in; those that no longer fit are closed."""
        self.picked.append(index)
        self.is_open_W[index] = False
        if self.limits.tokens_W is not None:
            self._tokens_left -= int(self.limits.tokens_W[index])
            self.is_open_W &= self.limits.tokens_W <= self._tokens_left
        return index

    def close(self, score_W: Floats) -> None:
        """Make the score of every request that is not open infinite, in place."""
        score_W[~self.is_open_W] = np.inf

    def take_least(self, score_W: Floats, tolerance: float) -> int:
        """Take the request of the least score, the oldest of those within `tolerance` of it.

        `score_W` must be closed, and is closed again, in place.
        """
        least = score_W[score_W.argmin()]
        index = self.take(int((score_W <= least + tolerance).argmax()))
        if self.limits.tokens_W is None:
            score_W[index] = np.inf
        else:
            self.close(score_W)
        return index

    def take_in_order(self, order: Iterable[int]) -> None:
        """Take what fits of `order` until the batch is full."""
        for index in order:
            if len(self.picked) >= self.limits.batch_size:
                return
            if self.is_open_W[index]:
                self.take(int(index))
