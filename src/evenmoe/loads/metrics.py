"""The one definition of every load metric. `docs/metrics.md` works each by hand.

Shape letters: E experts, D devices, L layers, S steps (forwards); X stands for E or D.
A *load* is a number of (token, expert) pairs. An all-zero load counts as even: nobody waits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError

Floats = NDArray[np.float64]


def _as_load(load: ArrayLike, field: str = "load") -> Floats:
    array = np.asarray(load, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ShapeError(
            f"{field} needs at least one axis with one entry per expert or device, got {array.shape}"
        )
    # NaN fails both comparisons; a reduction each is cheaper than arrays of answers
    if array.size and not (np.minimum.reduce(array, None) >= 0 and np.maximum.reduce(array, None) < np.inf):
        raise ConfigError(field, load, "finite numbers of at least 0")
    return array


def _unwrap(values: Floats) -> float | Floats:
    return float(values) if values.ndim == 0 else values


def _divide(numerator: Floats, denominator: Floats, where_zero: float) -> Floats:
    if denominator.size and np.minimum.reduce(denominator, None) > 0:
        return np.asarray(numerator / denominator)
    out = np.full(np.broadcast(numerator, denominator).shape, where_zero)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def peak_to_mean(load: ArrayLike) -> float | Floats:
    """Busiest entry over the mean entry, along the last axis: max_x l_x / mean_x l_x, at least 1.

    `load` [..., X] gives an array [...]; a single vector gives a float. The "normalised load" of
    Capacity-Aware Inference, Figure 1, is each entry over this mean.
    Raises ShapeError for an empty load, ConfigError for negative or non-finite entries.
    """
    array = _as_load(load)
    mean = np.add.reduce(array, -1) / array.shape[-1]
    return _unwrap(_divide(np.maximum.reduce(array, -1), mean, where_zero=1.0))


def coefficient_of_variation(load: ArrayLike) -> float | Floats:
    """Population standard deviation over mean, along the last axis; 0 for an even load (CAPS's imbalance)."""
    array = _as_load(load)
    mean = np.add.reduce(array, -1) / array.shape[-1]
    deviation = array - mean[..., None]
    std = np.sqrt(np.add.reduce(deviation * deviation, -1) / array.shape[-1])
    return _unwrap(_divide(std, mean, where_zero=0.0))


def gini(load: ArrayLike) -> float | Floats:
    """Gini coefficient along the last axis: 0 even, (X - 1) / X when one entry carries everything."""
    array = np.sort(_as_load(load), axis=-1)
    num_entries = array.shape[-1]
    rank_X = 2 * np.arange(1, num_entries + 1) - num_entries - 1
    return _unwrap(_divide((array * rank_X).sum(-1), num_entries * array.sum(-1), where_zero=0.0))


def straggler_factor(load: ArrayLike, even: ArrayLike | None = None) -> float:
    """How many times longer the MoE layers take than with an even load: sum of peaks over sum of even loads.

    `load` [..., D] is what every device *runs* at each step and layer: pairs, after any policy. `even` [...]
    is the load each device would have if every top-k assignment ran and were spread evenly, T * K / D per
    step and layer; None takes the mean of `load`, right where nothing was dropped. Every device waits for
    the busiest, so a layer lasts max_d l_d (Capacity-Aware Inference, section 3; its speedups follow this).
    Dropping can bring the factor under 1.
    """
    array = _as_load(load)
    even_load = array.mean(-1) if even is None else np.asarray(even, dtype=np.float64)
    if even_load.shape != array.shape[:-1]:
        raise ShapeError(f"even has shape {even_load.shape}; load {array.shape} needs {array.shape[:-1]}")
    return ratio_of_sums(array.max(-1), even_load)


def ratio_of_sums(peaks: ArrayLike, means: ArrayLike) -> float:
    """Sum of peaks over sum of means, 1 where there is no load: the average weighted by each step's load."""
    total_mean = float(np.sum(means))
    return float(np.sum(peaks)) / total_mean if total_mean > 0 else 1.0


def drop_rate(assignments: ArrayLike, kept: ArrayLike) -> float:
    """Share of top-k assignments that did not run: 1 - sum(kept) / sum(assignments); substitutes don't count."""
    total, survived = float(np.sum(assignments)), float(np.sum(kept))
    if survived > total:
        raise ConfigError(
            "kept", survived, f"at most the {total:g} top-k assignments (substitutes do not count)"
        )
    return 1.0 - survived / total if total > 0 else 0.0


def gate_mass_kept(mass: ArrayLike, mass_kept: ArrayLike) -> float:
    """Share of the top-k gate scores whose assignment ran: sum over kept over sum over top-k."""
    total = float(np.sum(mass))
    return float(np.sum(mass_kept)) / total if total > 0 else 1.0


def relative_work(assignments: ArrayLike, run: ArrayLike) -> float:
    """Pairs that ran, substitutes included, over the T * K top-k assignments; Expanded Drop may exceed 1."""
    total = float(np.sum(assignments))
    return float(np.sum(run)) / total if total > 0 else 1.0


def device_load(load_E: ArrayLike, placement: ArrayLike, num_devices: int) -> Floats:
    """Load of each device, [..., D], from the load of each expert, [..., E], under a placement.

    `placement` is either [E], the device of each expert, or bool [D, E], whether a device holds a copy of the
    expert; every copy then takes an even share of the expert's load.
    Raises ShapeError for shapes that disagree, ConfigError for device numbers out of range or no copy at all.
    """
    load = _as_load(load_E)
    holds_DE = _holds(np.asarray(placement), load.shape[-1], num_devices)
    share_DE = holds_DE / holds_DE.sum(0)
    return np.asarray(load @ share_DE.T)


def _holds(placement: NDArray[np.generic], num_experts: int, num_devices: int) -> NDArray[np.bool_]:
    """[D, E] bool, checked, from either form of a placement."""
    if placement.dtype == np.bool_ and placement.ndim == 2:
        if placement.shape != (num_devices, num_experts):
            raise ShapeError(
                f"holders have shape {placement.shape}; {num_devices} devices and {num_experts} experts "
                f"need ({num_devices}, {num_experts})"
            )
        if not placement.any(0).all():
            nowhere = np.flatnonzero(~placement.any(0)).tolist()
            raise ConfigError("experts on no device", nowhere, "none: every expert needs at least one copy")
        return placement.astype(np.bool_)
    if placement.shape != (num_experts,):
        raise ShapeError(
            f"device_of_expert has shape {placement.shape}; {num_experts} experts need ({num_experts},)"
        )
    device_E = placement.astype(np.int64)
    is_device = (device_E == placement) & (device_E >= 0) & (device_E < num_devices)
    if not is_device.all():
        raise ConfigError(
            "device_of_expert", placement.tolist(), f"device numbers from 0 to {num_devices - 1}"
        )
    return np.asarray(np.arange(num_devices)[:, None] == device_E)
