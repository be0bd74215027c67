"""Predictors that look at each token by itself, so that what they say of a token id can be kept.

Shape letters: T tokens of a prompt, U different token ids, L layers, E experts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.scheduling.predictors.predictor import as_ids

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Tokenwise(ABC):
    """Sums what is chosen for each token id; ids that were met before are looked up.

    keep: whether to look them up; without it every prediction asks the model again.
    Memory: L * E bytes for each token id met.
    """

    def __init__(self, num_layers: int, num_experts: int, top_k: int, *, keep: bool = True) -> None:
        self.num_layers, self.num_experts, self.top_k = num_layers, num_experts, top_k
        self._keep = keep
        self._row_of: dict[int, Bools] = {}

    @abstractmethod
    def choose(self, ids_U: Ints) -> Bools:
        """[U, L, E]: the experts chosen for each token id."""

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: the pairs of the prompt's tokens, each taken by itself. `topic` is not used.

        Raises ShapeError and ConfigError for anything but a list of token ids.
        """
        ids_U, number_U = np.unique(as_ids(ids_T), return_counts=True)
        chosen_ULE = self._look_up(ids_U) if self._keep else self.choose(ids_U)
        return np.asarray(np.tensordot(number_U.astype(np.float64), chosen_ULE, axes=1))

    def _look_up(self, ids_U: Ints) -> Bools:
        if not len(ids_U):
            return np.zeros((0, self.num_layers, self.num_experts), dtype=np.bool_)
        keys = ids_U.tolist()
        missing = [key for key in keys if key not in self._row_of]
        if missing:
            self._row_of |= zip(missing, self.choose(np.array(missing)), strict=True)
        return np.stack([self._row_of[key] for key in keys])
