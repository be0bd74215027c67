"""Which device's share of a batch each request joins. Shape letters: B requests, D devices, X entries of a load vector.

Local capacity is counted over one device's own tokens, so it drops most where a device's requests are alike. A share of
unlike requests has an even load of its own.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError, check_choice
from evenmoe.scheduling.window import Floats, Ints, as_loads

AssignMethod: TypeAlias = Literal["arrival", "random", "balanced"]
ASSIGN_METHODS: Final[tuple[AssignMethod, ...]] = get_args(AssignMethod)

_MOST_SWEEPS = 20
_RELATIVE_TOLERANCE = 1e-9


def assign(
    loads_BX: ArrayLike,
    tokens_B: ArrayLike | None = None,
    *,
    num_devices: int,
    method: str = "balanced",
    rng: np.random.Generator | None = None,
) -> Ints:
    """[B]: the device of each request, whole requests, as `Attached.assign` takes them.

    loads_BX: [B, X] predicted expert loads; layers, if several, one after the other.
    tokens_B: [B] tokens of each request; None: all the same.
    method: `arrival` cuts the batch into contiguous shares, as even in number as possible, the first ones larger;
        `random` does so after a shuffle by `rng`; `balanced` gives every share as many tokens as may be, and makes
        the sum over devices of ||load of the share||^2 as low as exchanges of two requests can.
    Raises ConfigError, ShapeError.
    """
    check_choice("method", method, ASSIGN_METHODS)
    loads = as_loads(loads_BX)
    tokens = np.ones(len(loads)) if tokens_B is None else np.asarray(tokens_B, dtype=np.float64)
    if tokens.shape != (len(loads),):
        raise ShapeError(f"tokens_B has shape {tokens.shape}; there are {len(loads)} requests")
    if tokens.size and not (np.isfinite(tokens).all() and tokens.min() >= 0):
        raise ConfigError("tokens_B", tokens_B, "finite numbers of at least 0")
    if num_devices < 1:
        raise ConfigError("num_devices", num_devices, "at least 1")
    if method == "arrival":
        return _contiguous(len(loads), num_devices)
    if method == "random":
        if rng is None:
            raise ConfigError("rng", None, "a numpy generator: random draws")
        return np.asarray(rng.permutation(_contiguous(len(loads), num_devices)))
    return _exchanged(loads, tokens, _packed(loads, tokens, num_devices), num_devices)


def overlap(loads_BX: ArrayLike, device_B: ArrayLike, num_devices: int) -> float:
    """What `balanced` makes low: the sum over devices of the squared length of the share's load vector."""
    return float((_share_load(as_loads(loads_BX), np.asarray(device_B), num_devices) ** 2).sum())


def _contiguous(num_requests: int, num_devices: int) -> Ints:
    small, larger = divmod(num_requests, num_devices)
    size_D = np.full(num_devices, small) + (np.arange(num_devices) < larger)
    return np.repeat(np.arange(num_devices), size_D)


def _share_load(loads: Floats, device_B: NDArray[np.generic], num_devices: int) -> Floats:
    """[D, X]."""
    return np.asarray((np.arange(num_devices)[:, None] == device_B).astype(np.float64) @ loads)


def _packed(loads: Floats, tokens: Floats, num_devices: int) -> Ints:
    """Most tokens first, then the longest vector, each to a device of the fewest tokens, there to the least alike."""
    dot_BB = loads @ loads.T
    order = np.lexsort((-np.diagonal(dot_BB), -tokens))
    device_B = np.zeros(len(loads), dtype=np.int64)
    tokens_D = np.zeros(num_devices)
    count_D = np.zeros(num_devices)
    overlap_DB = np.zeros((num_devices, len(loads)))
    for index in order.tolist():
        is_least_D = tokens_D <= tokens_D.min()
        is_least_D &= count_D <= count_D[is_least_D].min()  # requests of no tokens are spread as well
        device = int(np.argmin(np.where(is_least_D, overlap_DB[:, index], np.inf)))
        device_B[index] = device
        tokens_D[device] += tokens[index]
        count_D[device] += 1
        overlap_DB[device] += dot_BB[index]
    return device_B


def _exchanged(loads: Floats, tokens: Floats, device_B: Ints, num_devices: int) -> Ints:
    """Each request in turn is exchanged with the partner that gains most, while a sweep gains anything.

    No exchange gives a device more tokens than the fullest one had at first.
    """
    device_B = device_B.copy()
    dot_BB = loads @ loads.T
    norm_B = np.diagonal(dot_BB)
    least_gain = _RELATIVE_TOLERANCE * float(norm_B.max(initial=0.0))
    tokens_D = np.bincount(device_B, weights=tokens, minlength=num_devices)
    most_tokens = float(tokens_D.max(initial=0.0))
    is_on_DB = (np.arange(num_devices)[:, None] == device_B).astype(np.float64)
    overlap_DB = is_on_DB @ dot_BB
    everyone = np.arange(len(loads))
    for _ in range(_MOST_SWEEPS):
        has_gained = False
        for index in everyone.tolist():
            here = int(device_B[index])
            # of i on a and j on b: change / 2 = (l_b - l_a).v_i + (l_a - l_b).v_j + ||v_i - v_j||^2
            change_B = overlap_DB[device_B, index] - overlap_DB[here, index]
            change_B += overlap_DB[here] - overlap_DB[device_B, everyone]
            change_B += norm_B[index] + norm_B - 2.0 * dot_BB[index]
            more_B = tokens - tokens[index]
            fits_B = (tokens_D[here] + more_B <= most_tokens) & (tokens_D[device_B] - more_B <= most_tokens)
            change_B[~fits_B | (device_B == here)] = np.inf
            other = int(np.argmin(change_B))
            if change_B[other] >= -least_gain:
                continue
            there = int(device_B[other])
            difference_B = dot_BB[other] - dot_BB[index]
            overlap_DB[here] += difference_B
            overlap_DB[there] -= difference_B
            tokens_D[here] += more_B[other]
            tokens_D[there] -= more_B[other]
            device_B[index], device_B[other] = there, here
            has_gained = True
        if not has_gained:
            break
    return device_B
