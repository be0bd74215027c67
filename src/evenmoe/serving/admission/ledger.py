"""Ledger: what was predicted of the tokens that were handed out, so that it can be laid beside what was observed.

Shape letter: X = L * E entries of a load.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rate = NDArray[np.floating]
"""[X] the predicted load of one token of a request."""

MOST_STEPS = 512
"""Steps whose ends are remembered. Observations are a few steps late; older steps are one sum."""


@dataclass(slots=True)
class _Step:
    end: int
    """Tokens handed out when it was over, since the start."""
    parts: Sequence[tuple[Rate, int]]


class Ledger:
    """Steps that were handed out, and where the last comparison ended.

    start: tokens that were routed before the first step.
    """

    def __init__(self, num_entries: int, *, start: int = 0) -> None:
        self.num_tokens = start
        self._settled = start
        self._steps: deque[_Step] = deque()
        self._old_end = start
        self._old_X: Floats = np.zeros(num_entries)

    def record(self, parts: Sequence[tuple[Rate, int]]) -> None:
        """A step is handed out: each request's rate [X], and its tokens in it."""
        self.num_tokens += sum(tokens for _, tokens in parts)
        if self._steps and self._steps[-1].end == self.num_tokens:
            return  # a step of no tokens
        self._steps.append(_Step(self.num_tokens, parts))
        if len(self._steps) > MOST_STEPS:
            self._fold(MOST_STEPS // 2)

    def settle(self, num_tokens: int) -> tuple[Floats, int] | None:
        """Predicted load [X] and number of the tokens from the last comparison to `num_tokens` since the start.

        None where no remembered step ended there: then nothing changes, and the next comparison covers more.
        """
        if num_tokens == self._old_end:
            steps = 0
        else:
            ends = (number for number, step in enumerate(self._steps, 1) if step.end == num_tokens)
            steps = next(ends, -1)
            if steps < 0:
                return None
        self._fold(steps)
        predicted_X, tokens = self._old_X, num_tokens - self._settled
        self._old_X, self._settled = np.zeros_like(predicted_X), num_tokens
        return predicted_X, tokens

    def _fold(self, steps: int) -> None:
        """Add up the oldest steps; their ends are forgotten, but for the last."""
        folded = [self._steps.popleft() for _ in range(steps)]
        if folded:
            self._old_X += predicted_sum(part for step in folded for part in step.parts)
            self._old_end = folded[-1].end


def predicted_sum(parts: Iterable[tuple[Rate, int]]) -> Floats | float:
    """[X]: the sum of rates times tokens; 0 of nothing."""
    rates: dict[int, Rate] = {}
    tokens: dict[int, int] = {}
    for rate_X, number in parts:
        rates[id(rate_X)] = rate_X
        tokens[id(rate_X)] = tokens.get(id(rate_X), 0) + number
    if not rates:
        return 0.0
    return np.array(list(tokens.values()), dtype=np.float64) @ np.stack(list(rates.values()))
