"""Requests in a queue, and as they leave it. Shape letter: X entries of a load vector."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.scheduling.window import Floats, as_loads


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheduled:
    """A request that was handed out in a batch."""

    key: Hashable
    payload: Any
    tokens: int
    arrived_ms: float
    passed_over: int
    """Batches that took a younger request before this one."""
    device: int
    """Whose share of the batch it joins; 0 where there is one device."""


Load: TypeAlias = ArrayLike | Callable[[], ArrayLike]
"""[X] a request's predicted load, or what predicts it when it is first looked at."""


@dataclass(eq=False, slots=True)
class Waiting:
    """A request in the queue."""

    key: Hashable
    payload: Any
    given: Load
    tokens: int
    arrived_ms: float
    leaves_by: int
    """Under `auto`: how many requests may be gone before it leaves."""
    passed_over: int = 0
    checked_X: Floats | None = None

    @property
    def load_X(self) -> Floats:
        """[X]: its load, predicted now if it never was."""
        if self.checked_X is None:
            self.checked_X = as_load(self.given() if callable(self.given) else self.given)
            self.given = ()  # what predicts may hold a whole prompt
        return self.checked_X


def as_load(load_X: ArrayLike) -> Floats:
    """[X]: a checked copy. Raises as `as_loads` does, which is only asked where two cheaper questions leave a doubt."""
    load = np.array(load_X, dtype=np.float64)
    if load.ndim == 1 and load.size and np.minimum.reduce(load) >= 0 and load @ load < np.inf:
        return load
    return np.asarray(as_loads(load[None])[0])
