"""Trimmer: keeps a worker's resident memory at what it uses.

Every step of an engine has another shape, and glibc keeps the gaps that its tensors leave: free, but resident. On
CPUs a worker grows with every request that way, stock vLLM's as well.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

EVERY_S = 5.0
"""Giving memory back takes some 10 ms, and what was given back is soon needed again."""


def malloc_trim() -> Callable[[], object] | None:
    """Return the C library's function that gives free memory back; None where there is none, as outside glibc."""
    found = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if found is None else lambda: found(ctypes.c_size_t(0))


class Trimmer:
    """Gives free memory back at the end of a step, at most every EVERY_S seconds.

    trim: what does it; None: nothing can. clock: seconds that never go back.
    """

    def __init__(
        self, trim: Callable[[], object] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._trim, self._clock = trim, clock
        self._next_s = clock() + EVERY_S

    def step_done(self) -> bool:
        """A step is over; return whether memory was given back."""
        if self._trim is None or self._clock() < self._next_s:
            return False
        self._trim()
        self._next_s = self._clock() + EVERY_S
        return True
