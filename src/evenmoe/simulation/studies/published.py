"""Published: what CAPS's study reports, and what follows from it. The figures are data, in published.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from evenmoe.errors import check_choice

PATTERNS = ("bursty", "poisson")
LEADING = "leading"
"""The study's top six strategies, which it does not tell apart."""

Range = tuple[float, float]
"""Least and most of a figure: over the leading strategies, or over rates."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The study's figures, by pattern, then by strategy or LEADING. Gains and reductions are over fcfs, in percent.

    p99: by rate. p99_over_rates: where only the range over rates is given.
    implied_poisson: fcfs's requests per second under Poisson arrivals and the leading strategies' gain on it, which are
        not reported, but follow from the P99 gains (see `evenmoe.simulation.studies.fluid`).
    """

    source: str
    requests: int
    batch_size: int
    rates_per_s: tuple[float, ...]
    leading_throughput_per_s: float
    leading_imbalance: float
    throughput_gain: Mapping[str, Range]
    imbalance_reduction: Range
    p99: Mapping[str, Mapping[float, Range]]
    p99_over_rates: Mapping[str, Range]
    implied_poisson: tuple[float, float]

    @property
    def batch_s(self) -> float:
        """Seconds of a full batch of even load: a batch takes this times its imbalance factor."""
        return self.batch_size / self.leading_throughput_per_s / self.leading_imbalance

    def throughput_per_s(self, pattern: str, strategy: str) -> float:
        """Requests per second of fcfs, LEADING, and under bursts random."""
        check_choice("pattern", pattern, PATTERNS)
        if pattern == "poisson":
            check_choice("strategy", strategy, ("fcfs", LEADING))
            fcfs, gain = self.implied_poisson
        else:
            check_choice("strategy", strategy, ("fcfs", *self.throughput_gain))
            fcfs = self.leading_throughput_per_s / (1 + _middle(self.throughput_gain[LEADING]) / 100)
            gain = 0.0 if strategy == "fcfs" else _middle(self.throughput_gain[strategy])
        return fcfs if strategy == "fcfs" else fcfs * (1 + gain / 100)

    def factor(self, pattern: str, strategy: str) -> float:
        """The mean imbalance factor, time over that of an even load, which that throughput implies."""
        return self.batch_size / self.throughput_per_s(pattern, strategy) / self.batch_s


@lru_cache
def read_published() -> Published:
    """The figures that ship."""
    body = json.loads(
        files("evenmoe.simulation.studies").joinpath("published.json").read_text(encoding="utf-8")
    )
    implied = body["implied"]["poisson"]
    return Published(
        source=body["source"],
        requests=body["requests"],
        batch_size=body["batch_size"],
        rates_per_s=tuple(map(float, body["rates_per_s"])),
        leading_throughput_per_s=body["throughput_per_s"]["bursty"][LEADING],
        leading_imbalance=body["imbalance"]["bursty"][LEADING],
        throughput_gain={name: _range(pair) for name, pair in body["throughput_gain_pct"]["bursty"].items()},
        imbalance_reduction=_range(body["imbalance_reduction_pct"]["bursty"][LEADING]),
        p99={
            pattern: {float(rate): _range(pair) for rate, pair in groups[LEADING].items()}
            for pattern, groups in body["p99_reduction_pct"].items()
        },
        p99_over_rates={
            name: _range(pair) for name, pair in body["p99_reduction_pct_over_rates"]["bursty"].items()
        },
        implied_poisson=(implied["fcfs_throughput_per_s"], implied["throughput_gain_pct"]),
    )


def _range(pair: list[float]) -> Range:
    low, high = pair
    return float(low), float(high)


def _middle(pair: Range) -> float:
    return (pair[0] + pair[1]) / 2
