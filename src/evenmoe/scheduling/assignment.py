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

_MOST_ROUNDS = 200
"""Of exchanges; 64 requests on 8 devices take about 14, 256 about 35."""
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
        the `overlap` as low as exchanges of two requests can. It is deterministic; where arrival's shares are as even
        in tokens, it never overlaps more than they do.
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
    return _balanced(loads, tokens, num_devices)


def overlap(loads_BX: ArrayLike, device_B: ArrayLike, num_devices: int) -> float:
    """What `balanced` makes low: the sum over devices of the squared length of the share's load vector."""
    return float((share_load(loads_BX, device_B, num_devices) ** 2).sum())


def _contiguous(num_requests: int, num_devices: int) -> Ints:
    small, larger = divmod(num_requests, num_devices)
    size_D = np.full(num_devices, small) + (np.arange(num_devices) < larger)
    return np.repeat(np.arange(num_devices), size_D)


def share_load(loads_BX: ArrayLike, device_B: ArrayLike, num_devices: int) -> Floats:
    """[D, X]: the summed load vectors of each device's share. Raises ShapeError, ConfigError."""
    return np.asarray(_is_on(np.asarray(device_B), num_devices) @ as_loads(loads_BX))


def _is_on(device_B: NDArray[np.generic], num_devices: int) -> Floats:
    """[D, B]: 1 where a request is on a device."""
    return np.asarray(np.arange(num_devices)[:, None] == device_B, dtype=np.float64)


def _balanced(loads: Floats, tokens: Floats, num_devices: int) -> Ints:
    dot_BB = loads @ loads.T
    are_alike = len(tokens) == 0 or tokens.min() == tokens.max()
    start_B = np.arange(len(loads)) % num_devices if are_alike else _packed(dot_BB, tokens, num_devices)
    balanced_B = _exchanged(dot_BB, tokens, start_B, num_devices)
    arrival_B = _contiguous(len(loads), num_devices)
    if _cost(dot_BB, tokens, arrival_B, num_devices) < _cost(dot_BB, tokens, balanced_B, num_devices):
        return _exchanged(dot_BB, tokens, arrival_B, num_devices)
    return balanced_B


def _cost(dot_BB: Floats, tokens: Floats, device_B: Ints, num_devices: int) -> tuple[float, float]:
    """What makes one assignment better than another: tokens of the fullest share, then the overlap."""
    tokens_D = np.bincount(device_B, weights=tokens, minlength=num_devices)
    is_together_BB = device_B[:, None] == device_B
    return float(tokens_D.max(initial=0.0)), float(dot_BB[is_together_BB].sum())


def _packed(dot_BB: Floats, tokens: Floats, num_devices: int) -> Ints:
    """Most tokens first, then the longest vector, each to a device of the fewest tokens, there to the least alike."""
    order = np.lexsort((-np.diagonal(dot_BB), -tokens))
    device_B = np.zeros(len(tokens), dtype=np.int64)
    tokens_D = np.zeros(num_devices)
    count_D = np.zeros(num_devices)
    overlap_DB = np.zeros((num_devices, len(tokens)))
    for index in order.tolist():
        is_least_D = tokens_D <= tokens_D.min()
        is_least_D &= count_D <= count_D[is_least_D].min()  # requests of no tokens are spread as well
        device = int(np.argmin(np.where(is_least_D, overlap_DB[:, index], np.inf)))
        device_B[index] = device
        tokens_D[device] += tokens[index]
        count_D[device] += 1
        overlap_DB[device] += dot_BB[index]
    return device_B


def _exchanged(dot_BB: Floats, tokens: Floats, device_B: Ints, num_devices: int) -> Ints:
    """Rounds of exchanges of two requests, while any gains: each time the best ones that share no device.

    No exchange gives a device more tokens than the fullest one had at first.
    """
    device_B = device_B.copy()
    norm_B = np.diagonal(dot_BB)
    least_gain = _RELATIVE_TOLERANCE * float(norm_B.max(initial=0.0))
    squared_distance_BB = norm_B[:, None] + norm_B - 2.0 * dot_BB
    more_BB = None if len(tokens) == 0 or tokens.min() == tokens.max() else tokens - tokens[:, None]
    tokens_D = np.bincount(device_B, weights=tokens, minlength=num_devices)
    most_tokens = float(tokens_D.max(initial=0.0))
    overlap_BD = dot_BB @ _is_on(device_B, num_devices).T
    for _ in range(_MOST_ROUNDS):
        # of i on a and j on b: change / 2 = (l_b - l_a).v_i + (l_a - l_b).v_j + ||v_i - v_j||^2
        gain_BB = overlap_BD.take(device_B, axis=1)
        gain_BB -= gain_BB.diagonal()[:, None].copy()
        change_BB = gain_BB + gain_BB.T + squared_distance_BB
        if more_BB is not None:
            fits_BB = more_BB <= (most_tokens - tokens_D)[device_B][:, None]
            change_BB[~(fits_BB & fits_BB.T)] = np.inf
        pairs = _best_pairs(change_BB, device_B, -least_gain)
        for one, other in pairs:
            here, there = device_B[one], device_B[other]
            difference_B = dot_BB[other] - dot_BB[one]
            overlap_BD[:, here] += difference_B
            overlap_BD[:, there] -= difference_B
            tokens_D[here] += tokens[other] - tokens[one]
            tokens_D[there] -= tokens[other] - tokens[one]
            device_B[one], device_B[other] = there, here
        if not pairs:
            break
    return device_B


def _best_pairs(change_BB: Floats, device_B: Ints, below: float) -> list[tuple[int, int]]:
    """Pairs whose exchange changes the cost by less than `below`, the best first, none on a device of another."""
    if not len(device_B):
        return []
    partner_B = change_BB.argmin(axis=1)
    change_B = change_BB[np.arange(len(partner_B)), partner_B]
    is_taken: set[int] = set()
    pairs = []
    for one in np.argsort(change_B, kind="stable").tolist():
        if change_B[one] >= below:
            break
        other = int(partner_B[one])
        devices = {int(device_B[one]), int(device_B[other])}
        if is_taken.isdisjoint(devices):
            is_taken |= devices
            pairs.append((one, other))
    return pairs
