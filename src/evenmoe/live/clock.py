"""Clocks of a live run: the wall's, and one that a busy machine disturbs less."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the run began. It must not run back."""

    def now_s(self) -> float:
        """The time."""

    def sleep_until(self, at_s: float) -> None:
        """Return at `at_s` or a little later; at once where that has passed."""


class WallClock:
    """The machine's monotonic clock, from its making on."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def now_s(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start_s

    def sleep_until(self, at_s: float) -> None:
        """Sleep; a wait of under a tenth of a millisecond is not worth it."""
        left_s = at_s - self.now_s()
        if left_s > 1e-4:
            time.sleep(left_s)


class CpuClock:
    """The CPU time of this process, all threads; nobody is waited for: a wait is added to the clock instead.

    The time of one thread on a machine of its own, near enough. With several threads it runs faster than the wall's.
    """

    def __init__(self) -> None:
        self._start_s = time.process_time()
        self._waited_s = 0.0

    def now_s(self) -> float:
        """Seconds since it was made, waits included."""
        return time.process_time() - self._start_s + self._waited_s

    def sleep_until(self, at_s: float) -> None:
        """Put the clock forward."""
        self._waited_s += max(at_s - self.now_s(), 0.0)
