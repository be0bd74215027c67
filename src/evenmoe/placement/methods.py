"""The placement methods: one layer's loads by domain -> the devices of each expert. Pure functions.

Shape letters: G domains, E experts, D devices, S scenarios.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from evenmoe.errors import ConfigError, check_choice
from evenmoe.placement.copies import Copies, Floats, Ints
from evenmoe.placement.domain_loads import DomainLoads, noisy_scenarios, scaled
from evenmoe.placement.packing import least_loaded, pack
from evenmoe.placement.placement import Placement
from evenmoe.placement.replicas import count_copies
from evenmoe.placement.swaps import improve, soft_peak, soft_peak_if_added

Method = Literal["contiguous", "round_robin", "load_balanced", "vector", "replicated", "vector_replicated"]
METHODS: tuple[Method, ...] = get_args(Method)
WITH_COPIES: tuple[Method, ...] = ("replicated", "vector_replicated")
RANDOM: tuple[Method, ...] = ("vector", "vector_replicated")

_MOST_SCENARIOS = 128
_MOST_CELLS = 8192
"""Scenarios times experts of a fit: 128 scenarios for up to 64 experts, 32 for 256."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What a fit depends on besides the loads.

    num_devices: D, at least 2.
    replicas: redundant copies per layer, for the methods that make copies.
    noise: how far the scenarios that vector is fitted to stray from the domains: the standard deviation of the
        logarithm of each expert's load. 0 fits the domains alone.
    seed: of that noise.
    Raises ConfigError.
    """

    num_devices: int
    replicas: int = 0
    noise: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_devices < 2:
            raise ConfigError(
                "num_devices", self.num_devices, "at least 2: with one there is nothing to place"
            )
        if self.replicas < 0:
            raise ConfigError("replicas", self.replicas, "at least 0")
        if not 0.0 <= self.noise <= 3.0:
            raise ConfigError("noise", self.noise, "from 0 to 3")
        if self.seed < 0:
            raise ConfigError("seed", self.seed, "at least 0")


def fit_placement(domains: DomainLoads, method: Method, settings: FitSettings) -> Placement:
    """Fit every layer to the loads of `domains` by `method`, every domain counting the same.

    The same arguments give the same placement.

    Raises ConfigError for an unknown method, more devices than experts, more replicas than fit, and replicas of 0
    for a method that makes copies.
    """
    check_choice("method", method, METHODS)
    for name, num_experts in zip(domains.layers, domains.num_experts_L, strict=True):
        if settings.num_devices > num_experts:
            raise ConfigError(
                "num_devices", settings.num_devices, f"at most the {num_experts} experts of layer {name!r}"
            )
    if method in WITH_COPIES and settings.replicas == 0:
        raise ConfigError("replicas", 0, f"at least 1 for method {method}")
    fit = _FITS[method]
    rows = [
        fit(scaled(load_GE), settings, np.random.default_rng([settings.seed, layer]))
        for layer, load_GE in enumerate(domains.load_LGE)
    ]
    return Placement.of(rows, settings.num_devices, layers=domains.layers, method=method)


def contiguous(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """Experts in order, cut into shares as even as possible; the first ones are one larger."""
    small, larger = divmod(load_GE.shape[1], settings.num_devices)
    size_D = [small + 1] * larger + [small] * (settings.num_devices - larger)
    return [[device] for device, size in enumerate(size_D) for _ in range(size)]


def round_robin(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """Experts dealt out in turn."""
    return [[expert % settings.num_devices] for expert in range(load_GE.shape[1])]


def load_balanced(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """The mean load over domains, packed heaviest expert first and evened out by exchanges."""
    copies = Copies.of(load_GE.mean(0, keepdims=True), _singles(load_GE), settings.num_devices)
    return copies.holders(improve(copies, pack(copies, least_loaded)))


def vector(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """Every domain's load evened at once: greedy by the soft peak over noisy scenarios, then exchanges."""
    load_SE = _scenarios(load_GE, settings, rng)
    copies = Copies.of(load_SE, _singles(load_GE), settings.num_devices)
    return copies.holders(improve(copies, pack(copies, soft_peak_if_added)))


def replicated(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """EPLB's idea: redundant copies for the highest mean load, all packed heaviest first onto the least loaded."""
    mean_E = load_GE.mean(0)
    count_E = count_copies(mean_E, settings.replicas, settings.num_devices)
    copies = Copies.of(mean_E[None], count_E, settings.num_devices)
    return copies.holders(pack(copies, least_loaded))


def vector_replicated(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> list[list[int]]:
    """Redundant copies for the hottest experts of any domain, and every domain's load evened at once.

    How hot is taken in three ways, as mean, root mean square and peak over domains; the best fit is kept.
    """
    load_SE = _scenarios(load_GE, settings, rng)
    best: tuple[float, list[list[int]]] | None = None
    for heat_E in (load_GE.mean(0), np.sqrt((load_GE**2).mean(0)), load_GE.max(0)):
        count_E = count_copies(heat_E, settings.replicas, settings.num_devices)
        copies = Copies.of(load_SE, count_E, settings.num_devices)
        device_M = improve(copies, pack(copies, soft_peak_if_added))
        cost = soft_peak(copies.device_load(device_M))
        if best is None or cost < best[0]:
            best = cost, copies.holders(device_M)
    assert best is not None
    return best[1]


def _scenarios(load_GE: Floats, settings: FitSettings, rng: np.random.Generator) -> Floats:
    num_scenarios = min(_MOST_SCENARIOS, _MOST_CELLS // load_GE.shape[1])
    return noisy_scenarios(load_GE, num_scenarios, settings.noise, rng)


def _singles(load_GE: Floats) -> Ints:
    return np.ones(load_GE.shape[1], dtype=np.int64)


_FITS: dict[Method, Callable[[Floats, FitSettings, np.random.Generator], list[list[int]]]] = {
    "contiguous": contiguous,
    "round_robin": round_robin,
    "load_balanced": load_balanced,
    "vector": vector,
    "replicated": replicated,
    "vector_replicated": vector_replicated,
}
