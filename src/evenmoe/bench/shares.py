"""Shares: how much of a layer's work each expert gets, as routing is drawn from it.

Shape letters: E experts, K top-k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads
from evenmoe.loads.metrics import peak_to_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """share_E sums to 1; `source` says in words where it is from and what was done to it."""

    share_E: Floats
    source: str

    @property
    def skew(self) -> float:
        """The busiest expert's share over the mean share."""
        return float(peak_to_mean(self.share_E))


def shares_of_loads(loads: ExpertLoads, *, layer: str | None = None, tag: str | None = None) -> Shares:
    """Return the shares of one layer of a loads file, as its router asked for them.

    layer: a layer's name, or the number at its end; None: the middle one. tag: a domain, tenant or request of the file;
    None: all together. Raises ConfigError naming the layers or tags that there are.
    """
    index = _layer_index(loads, layer)
    if tag is not None and tag not in loads.by_tag:
        raise ConfigError(
            "tag", tag, "a tag of the loads file: " + (", ".join(loads.by_tag) or "it has none")
        )
    counts = loads.total if tag is None else loads.by_tag[tag]
    load_E = counts.before_LE[index, : int(loads.num_experts_L[index])].astype(np.float64)
    if load_E.sum() == 0:
        raise ConfigError("layer", loads.layers[index], "a layer with loads: nothing was routed there")
    where = f"{loads.source or 'loads'}, layer {loads.layers[index]}, {tag or 'all tags'}"
    return Shares(share_E=load_E / load_E.sum(), source=where)


def synthetic_shares(num_experts: int, top_k: int, skew: float) -> Shares:
    """Return log-normal shares whose busiest expert has `skew` times the mean, busiest first."""
    place_E = (np.arange(num_experts) + 0.5) / num_experts
    normal = NormalDist()
    share_E = np.exp([-normal.inv_cdf(place) for place in place_E])
    shares = Shares(share_E=share_E / share_E.sum(), source="log-normal")
    return with_skew(shares, top_k, skew)


def with_skew(shares: Shares, top_k: int, skew: float) -> Shares:
    """Return shares ** power, the power such that the busiest expert gets `skew` times the mean.

    Raises ConfigError for a skew outside 1 to E / K: a token has an expert at most once, so none can have more than
    1 / K of all pairs.
    """
    num_experts = shares.share_E.shape[0]
    highest = num_experts / top_k
    tied = int((shares.share_E == shares.share_E.max()).sum())
    if not 1.0 <= skew <= min(highest, num_experts / tied):
        raise ConfigError(
            "skew",
            skew,
            f"a number from 1 to {min(highest, num_experts / tied):g}: with {num_experts} experts and top-{top_k} "
            f"an expert has at most {highest:g} times the mean",
        )
    log_E = np.log(np.maximum(shares.share_E / shares.share_E.max(), 1e-12))
    low, high = 0.0, 1.0
    while float(peak_to_mean(np.exp(log_E * high))) < skew and high < 1e6:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if float(peak_to_mean(np.exp(log_E * middle))) < skew else (low, middle)
    share_E = np.exp(log_E * high)
    return Shares(
        share_E=share_E / share_E.sum(), source=f"{shares.source}, busiest expert made {skew:g} x the mean"
    )


def resampled(shares: Shares, num_experts: int, seed: int) -> Shares:
    """Return the same profile over another number of experts: the sorted shares read off at even quantiles.

    Which expert is busy is lost with the old numbering, so the new experts are ordered by the seed. Unchanged where
    the number is the same.
    """
    old = shares.share_E.shape[0]
    if old == num_experts:
        return shares
    sorted_E = np.sort(shares.share_E)
    place_E = (np.arange(num_experts) + 0.5) / num_experts
    share_E = np.interp(place_E, (np.arange(old) + 0.5) / old, sorted_E)
    share_E = np.random.default_rng(seed).permutation(share_E)
    return Shares(
        share_E=share_E / share_E.sum(),
        source=f"{shares.source}, resampled from {old} to {num_experts} experts by quantiles",
    )


def shuffled(shares: Shares, seed: int) -> Shares:
    """Return the same shares over the experts in an order drawn from the seed."""
    return replace(shares, share_E=np.random.default_rng(seed).permutation(shares.share_E))


def feasible(shares: Shares, top_k: int) -> Shares:
    """Return shares of at most 1 / K each; what is over goes to the other experts in proportion, and is said so."""
    most = 1.0 / top_k
    share_E = shares.share_E
    if share_E.max() <= most * (1 + 1e-9):
        return shares
    full_E = np.zeros(share_E.shape, dtype=bool)
    while (over_E := (share_E > most * (1 + 1e-12)) & ~full_E).any():
        full_E |= over_E
        rest = share_E[~full_E].sum()
        free = 1.0 - most * full_E.sum()
        if rest == 0:  # the others have nothing to be in proportion to
            share_E = np.where(full_E, most, free / max((~full_E).sum(), 1))
        else:
            share_E = np.where(full_E, most, share_E * free / rest)
    return Shares(
        share_E=share_E / share_E.sum(),
        source=f"{shares.source}, {int(full_E.sum())} expert(s) cut to the most that top-{top_k} allows",
    )


def _layer_index(loads: ExpertLoads, layer: str | None) -> int:
    if layer is None:
        return len(loads.layers) // 2
    if layer in loads.layers:
        return loads.layers.index(layer)
    ends = [name for name in loads.layers if layer.isdigit() and layer in name.split(".")]
    if len(ends) != 1:
        raise ConfigError("layer", layer, "a layer of the loads file: " + ", ".join(loads.layers))
    return loads.layers.index(ends[0])
