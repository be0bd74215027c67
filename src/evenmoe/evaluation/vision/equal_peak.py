"""Equal peak: the gamma at which a policy runs as fast as another, so that the two can be compared.

Policies that count differently (MACS counts weight, device level counts devices) mean different things by the same
gamma. What a parallel run waits for is the physical load of the busiest device, or expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads, ratio_of_sums


@dataclass(frozen=True, kw_only=True)
class EqualPeak:
    """gamma: where the search ended. peak: what was measured there. target: what was asked for.

    tried: every (gamma, peak) in the order of the search.
    """

    gamma: float
    peak: float
    target: float
    tried: tuple[tuple[float, float], ...]


def expert_peak(loads: ExpertLoads) -> float:
    """Busiest expert's load as it ran over the even load T * K / E of all assignments, averaged by load over steps.

    The straggler factor of one expert per device. Raises ConfigError for loads whose steps were not recorded.
    """
    if loads.peaks is None:
        raise ConfigError("loads", loads.source, "loads with the peaks of their steps")
    even_L = loads.total.before_LE.sum(-1) / loads.num_experts_L
    return ratio_of_sums(loads.peaks.expert_after_L, even_L)


def gamma_for_peak(
    measure: Callable[[float], float],
    target: float,
    *,
    low: float = 0.05,
    high: float = 8.0,
    tolerance: float = 0.01,
    most_runs: int = 12,
) -> EqualPeak:
    """Search the gamma at which `measure(gamma)`, a peak that grows with gamma, is the target, by bisection.

    measure: runs the policy and returns its physical peak: `loads.straggler_factor`, or `expert_peak(loads)`.
    low, high: gammas between which to search; halving goes by their ratio. tolerance: relative to the target.
    Returns the closest of at most `most_runs` runs, which may be further off than the tolerance: a peak moves in steps.
    Raises ConfigError for a target that `low` exceeds or `high` does not reach, and for bounds that are none.
    """
    if not 0 < low < high < math.inf:
        raise ConfigError("low, high", (low, high), "0 < low < high < inf")
    tried: list[tuple[float, float]] = []

    def tried_at(gamma: float) -> float:
        tried.append((gamma, measure(gamma)))
        return tried[-1][1]

    if not tried_at(low) <= target <= tried_at(high):
        raise ConfigError(
            "target", target, f"between {tried[0][1]:.4g} at gamma {low:g} and {tried[1][1]:.4g} at {high:g}"
        )
    while len(tried) < most_runs and _error(tried, target) > tolerance:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if tried_at(middle) < target else (low, middle)
    gamma, peak = min(tried, key=lambda run: (abs(run[1] - target), run[0]))
    return EqualPeak(gamma=gamma, peak=peak, target=target, tried=tuple(tried))


def _error(tried: list[tuple[float, float]], target: float) -> float:
    return min(abs(peak - target) for _, peak in tried) / target
