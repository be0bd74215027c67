"""Predictor: what every predictor offers. Shape letters: T tokens of a prompt, L layers, E experts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Predictor(Protocol):
    """Says what a prompt will ask of each expert, before it runs."""

    @property
    def num_layers(self) -> int:
        """L."""

    @property
    def num_experts(self) -> int:
        """E, the most of any layer; a layer with fewer is padded with zeros."""

    @property
    def top_k(self) -> int:
        """K, the most experts that a token is given in one layer."""

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: expected (token, expert) pairs of the whole prompt, which is K * T a layer where all tokens get K.

        topic: who asks or what about, for predictors that learn by it.
        Raises ShapeError and ConfigError for anything but a list of token ids.
        """


def as_ids(ids_T: ArrayLike) -> Ints:
    """A prompt's token ids as integers [T]. Raises ShapeError and ConfigError for anything else."""
    ids = np.asarray(ids_T)
    if ids.ndim != 1:
        raise ShapeError(f"token ids have shape {ids.shape}; one prompt is a list, [T]")
    if not len(ids):
        return np.zeros(0, dtype=np.int64)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError("token ids", ids.dtype.name, "integers")
    if ids.min() < 0:
        raise ConfigError("token ids", int(ids.min()), "at least 0")
    return ids.astype(np.int64, copy=False)


def check_load(load_LE: ArrayLike, predictor: Predictor) -> Floats:
    """An observed load as floats. Raises ShapeError unless it is [L, E], ConfigError for what is no load."""
    load = np.asarray(load_LE, dtype=np.float64)
    if load.shape != (predictor.num_layers, predictor.num_experts):
        raise ShapeError(
            f"the load has shape {load.shape}, not [layers, experts] = {(predictor.num_layers, predictor.num_experts)}"
        )
    if not np.isfinite(load).all() or (load < 0).any():
        raise ConfigError("load", "negative or not finite", "finite numbers of at least 0")
    return load
