"""RateTable: the rates of running requests, one row each, so that what runs is one product.

Shape letters: R rows, V entries of what is seen of a load.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class RateTable:
    """Rows come and go with requests; the table grows where it is full."""

    def __init__(self, length: int) -> None:
        self._rate_RV = np.zeros((16, length), dtype=np.float32)
        self._row_of: dict[Hashable, int] = {}
        self._vacant = list(range(len(self._rate_RV)))

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, key: object) -> bool:
        return key in self._row_of

    def put(self, key: Hashable, rate_V: NDArray[np.floating]) -> None:
        """Give a request a row, or its row another rate."""
        row = self._row_of.get(key)
        if row is None:
            if not self._vacant:
                size = len(self._rate_RV)
                self._rate_RV = np.concatenate([self._rate_RV, np.zeros_like(self._rate_RV)])
                self._vacant = list(range(size, 2 * size))
            row = self._row_of[key] = self._vacant.pop()
        self._rate_RV[row] = rate_V

    def drop(self, key: Hashable) -> None:
        """Give up a request's row, if it has one."""
        row = self._row_of.pop(key, None)
        if row is not None:
            self._vacant.append(row)

    def load(self, parts: Iterable[tuple[Hashable, int]]) -> Floats:
        """[V]: the sum of rates times tokens; keys without a row count nothing."""
        tokens_R = np.zeros(len(self._rate_RV), dtype=np.float32)
        for key, tokens in parts:
            row = self._row_of.get(key)
            if row is not None:
                tokens_R[row] += tokens
        return (tokens_R @ self._rate_RV).astype(np.float64)
