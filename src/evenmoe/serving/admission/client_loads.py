"""Client loads: a request's expected load as its sender says it. Shape letters: L layers, E experts, X = L * E."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError

FIELD = "expert_load"
"""The name under which a request carries it: in vLLM, of `vllm_xargs`."""


def client_load(arguments: Mapping[str, Any] | None, num_entries: int | None) -> NDArray[np.float32] | None:
    """[X]: the checked load among a request's extra arguments, or None where there is none.

    num_entries: L * E, how many numbers it must have; None where that is not known yet, so that it is not checked.
    Raises ConfigError, which names what is wrong, for anything but a list of so many finite numbers of at least 0.
    """
    if arguments is None or FIELD not in arguments:
        return None
    values = arguments[FIELD]
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise ConfigError(FIELD, _short(values), "a list of numbers, layer after layer, one for each expert")
    if num_entries is not None and len(values) != num_entries:
        raise ConfigError(
            FIELD,
            f"{len(values)} numbers",
            f"{num_entries} numbers: layer after layer, one for each expert",
        )
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_load(value):
            raise ConfigError(f"{FIELD}[{index}]", _short(value), "a finite number of at least 0")
    if not values:
        raise ConfigError(FIELD, values, "a number for each layer and expert")
    return np.array(values, dtype=np.float32)


_MOST = float(np.finfo(np.float32).max) / 1e6
"""Sums over layers stay finite up to here."""


def _is_load(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= _MOST if isinstance(value, float) else 0 <= value <= _MOST


def _short(value: object) -> object:
    """What fits into a message of what someone else sent."""
    text = repr(value)
    return value if len(text) <= 60 else text[:57] + "..."
