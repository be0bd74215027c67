"""Methods compared: how even each placement is on what it was fitted to, and on domains it never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenmoe.loads.metrics import peak_to_mean
from evenmoe.placement.domain_loads import DomainLoads
from evenmoe.placement.methods import RANDOM, WITH_COPIES, FitSettings, Method, fit_placement
from evenmoe.placement.placement import Placement

Floats = NDArray[np.float64]

MAX_FOLDS = 16
"""Up to this many domains each is held out alone; more are held out in this many groups."""


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method: its placement, fitted to all domains, and its straggler factors."""

    method: Method
    placement: Placement
    fitted_by_domain: dict[str, float]
    """Mean over layers, of the placement fitted to all domains, this one too."""
    heldout_by_domain: dict[str, float] | None
    """Mean over layers, of placements fitted without the domain; None where there is only one domain."""
    seconds: float
    """Time of the fit to all domains."""

    @property
    def fitted_straggler_factor(self) -> float:
        """Mean over layers and domains."""
        return float(np.mean(list(self.fitted_by_domain.values())))

    @property
    def heldout_straggler_factor(self) -> float | None:
        """Mean over layers and held-out domains; None where there is only one domain."""
        return float(np.mean(list(self.heldout_by_domain.values()))) if self.heldout_by_domain else None

    @property
    def judged_straggler_factor(self) -> float:
        """The factor that methods are compared by: held out, or fitted where there is no other."""
        held_out = self.heldout_straggler_factor
        return self.fitted_straggler_factor if held_out is None else held_out


def straggler_factors(placement: Placement, domains: DomainLoads) -> Floats:
    """[G, L]: busiest device over the mean device, for each domain and layer. Raises ShapeError if it does not fit."""
    fitted = placement.for_layers(domains.num_experts_L)
    factor_LG = [
        peak_to_mean(fitted.device_load(load_GE, layer)) for layer, load_GE in enumerate(domains.load_LGE)
    ]
    return np.array(factor_LG, dtype=np.float64).T


def compare_methods(
    domains: DomainLoads,
    methods: Sequence[Method],
    settings: FitSettings,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[MethodResult]:
    """Fit each method to all domains and, by cross-validation, to all but some; one result per method, in order.

    `on_progress(done, total)` counts fits. Raises ConfigError as `fit_placement` does.
    """
    folds = held_out_folds(len(domains.tags))
    total = len(methods) * (1 + len(folds))
    results = []
    for index, method in enumerate(methods):

        def report(done: int, before: int = index * (1 + len(folds))) -> None:
            if on_progress:
                on_progress(before + done, total)

        started = time.perf_counter()
        placement = fit_placement(domains, method, settings)
        seconds = time.perf_counter() - started
        report(1)
        results.append(
            MethodResult(
                method=method,
                placement=placement,
                fitted_by_domain=_by_domain(domains, straggler_factors(placement, domains)),
                heldout_by_domain=_held_out(domains, method, settings, folds, report) if folds else None,
                seconds=seconds,
            )
        )
    return results


def held_out_folds(num_domains: int) -> list[list[int]]:
    """The domains left out together, each once; none where there is only one domain."""
    if num_domains < 2:
        return []
    num_folds = min(num_domains, MAX_FOLDS)
    return [list(range(fold, num_domains, num_folds)) for fold in range(num_folds)]


def recommend(results: Sequence[MethodResult], *, with_copies: bool) -> MethodResult:
    """The result with the lowest held-out factor. Without held-out factors, the lowest fitted one.

    The first of equals (to six digits), so that nothing is moved for nothing.

    `with_copies`: whether methods that need memory for redundant copies may be chosen.
    """
    allowed = [result for result in results if with_copies or result.method not in WITH_COPIES]
    return min(allowed, key=lambda result: round(result.judged_straggler_factor, 6))


def _held_out(
    domains: DomainLoads,
    method: Method,
    settings: FitSettings,
    folds: list[list[int]],
    report: Callable[[int], None],
) -> dict[str, float]:
    factor_GL = np.full((len(domains.tags), len(domains.layers)), np.nan)
    for fold, left_out in enumerate(folds):
        kept = [domain for domain in range(len(domains.tags)) if domain not in left_out]
        placement = fit_placement(domains.only(kept), method, _of_fold(settings, method, fold))
        factor_GL[left_out] = straggler_factors(placement, domains.only(left_out))
        report(2 + fold)
    return _by_domain(domains, factor_GL)


def _of_fold(settings: FitSettings, method: Method, fold: int) -> FitSettings:
    """Noise of its own for each fold, so that one unlucky draw does not count in all."""
    return replace(settings, seed=settings.seed + 1 + fold) if method in RANDOM else settings


def _by_domain(domains: DomainLoads, factor_GL: Floats) -> dict[str, float]:
    return dict(zip(domains.tags, factor_GL.mean(-1).tolist(), strict=True))
