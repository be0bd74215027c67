"""Handwritten digits of 8 by 8 pixels; those held out ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evenmoe.errors import ShapeError

_FILE = Path(__file__).parent / "heldout_digits.npz"
SIZE = 8


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Images [N, 8, 8] with ink from 0 to 16, and the figure that each shows [N]."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.images.shape != (len(self.labels), SIZE, SIZE):
            raise ShapeError(f"images {self.images.shape} should be ({len(self.labels)}, {SIZE}, {SIZE})")
        missing = sorted(set(range(10)) - set(self.labels.tolist()))
        if missing:
            raise ShapeError(f"every figure must occur among the digits; missing: {missing}")

    def pick(self, figure: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """One image of a figure, drawn evenly among its images."""
        (places,) = np.nonzero(self.labels == figure)
        image: npt.NDArray[np.uint8] = self.images[places[int(rng.integers(len(places)))]]
        return image


@cache
def heldout_digits() -> Digits:
    """The 397 digits that no training has seen: the last ones of the UCI test set of handwritten digits."""
    with np.load(_FILE, allow_pickle=False) as file:
        return Digits(images=file["images"], labels=file["labels"])
