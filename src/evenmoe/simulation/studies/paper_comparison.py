"""The study beside the published one: figure by figure, and whether its shape comes out. Pure functions of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from evenmoe.scheduling.selecting import OURS
from evenmoe.simulation.studies.published import LEADING, PATTERNS, Published, Range

NUM_LEADING = 6
WITHIN_POINTS = 2.0
"""How far apart the leading strategies' P99 gains may be, in percentage points, to count as together."""

LOST_POINTS = -1.0
"""What `auto` may lose to fcfs in P99, in percentage points."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A published figure beside this study's.

    rate_per_s: None where it is of all rates. Each is (least, most), over the leading strategies or over rates.
    difference: of the middles, here less published.
    """

    pattern: str
    of: str
    figure: str
    rate_per_s: float | None
    published: Range
    here: Range
    difference: float


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Something that the published results say, whether it holds here, and the numbers that decide."""

    says: str
    holds: bool
    because: str


def leading(body: Mapping[str, Any]) -> list[str]:
    """The six of CAPS's strategies that gain most throughput under bursts (fewer, where fewer were run), best first.

    The study does not name its six; a rank by throughput does not depend on the rate.
    """
    at_rates = body.get("bursty") or body.get("poisson") or {}

    def gain(strategy: str) -> float:
        gains = [at["_improvements"][strategy]["throughput_gain_pct"] for at in at_rates.values()]
        return float(sum(gains) / len(gains))

    candidates = [name for name in body["strategies"] if name not in ("fcfs", *OURS)]
    return sorted(candidates, key=gain, reverse=True)[:NUM_LEADING]


def compare(body: Mapping[str, Any], published: Published) -> list[Line]:
    """Every published figure that this study has too."""
    lines: list[Line] = []
    first = leading(body)

    def add(
        pattern: str, of: str, figure: str, said: Range, here: Sequence[float], rate: float | None = None
    ) -> None:
        found = (min(here), max(here))
        difference = sum(found) / 2 - sum(said) / 2
        lines.append(
            Line(
                pattern=pattern,
                of=of,
                figure=figure,
                rate_per_s=rate,
                published=said,
                here=found,
                difference=difference,
            )
        )

    for pattern in (name for name in PATTERNS if name in body):
        for of in ("fcfs", LEADING, "random"):
            names = [name for name in (first if of == LEADING else [of]) if name in body["strategies"]]
            if not names or (pattern, of) == ("poisson", "random"):
                continue
            throughput, factor = published.throughput_per_s(pattern, of), published.factor(pattern, of)
            add(
                pattern,
                of,
                "requests/s",
                (throughput,) * 2,
                _means(body, pattern, names, "throughput_mean"),
            )
            add(pattern, of, "imbalance", (factor,) * 2, _means(body, pattern, names, "imbalance_mean"))
            if pattern == "bursty" and of != "fcfs":
                gains = _means(body, pattern, names, "throughput_gain_pct")
                add(pattern, of, "req/s gain, %", published.throughput_gain[of], gains)
        for rate, said in published.p99[pattern].items():
            at = body[pattern].get(f"{rate:g}")
            if at is not None and first:
                gains = [at["_improvements"][name]["p99_reduction_pct"] for name in first]
                add(pattern, LEADING, "P99 gain, %", said, gains, rate)
        for of, said in published.p99_over_rates.items() if pattern == "bursty" else ():
            if of in body["strategies"]:
                gains = [at["_improvements"][of]["p99_reduction_pct"] for at in body[pattern].values()]
                add(pattern, of, "P99 gain, %", said, gains)
    return lines


def shape(body: Mapping[str, Any]) -> list[Statement]:
    """What the published results look like, statement by statement; those that this grid can decide."""
    names, first = set(body["strategies"]), leading(body)
    found: list[Statement] = []
    if "bursty" in body and len(first) == NUM_LEADING:
        found += _of_bursts(body["bursty"], names, first)
    if "poisson" in body and first:
        found += _of_poisson(body["poisson"], first)
    if "auto" in names:
        worst = min(
            (at["_improvements"]["auto"]["p99_reduction_pct"], pattern, rate)
            for pattern in PATTERNS
            if pattern in body
            for rate, at in body[pattern].items()
        )
        because = f"worst {worst[0]:+z.1f}%, {worst[1]} at {worst[2]}/s"
        says = "auto loses no more than 1% of P99 to fcfs at any of these loads"
        found.append(Statement(says=says, holds=worst[0] >= LOST_POINTS, because=because))
    return found


def _of_bursts(at_rates: Mapping[str, Any], names: set[str], first: Sequence[str]) -> list[Statement]:
    gains = {
        rate: {name: gain["p99_reduction_pct"] for name, gain in at["_improvements"].items()}
        for rate, at in at_rates.items()
    }
    widest = max(
        max(gain[name] for name in first) - min(gain[name] for name in first) for gain in gains.values()
    )
    found = [
        Statement(
            says=f"under bursts the six leading strategies are within {WITHIN_POINTS:g} points of P99 gain",
            holds=widest <= WITHIN_POINTS,
            because=f"at most {widest:.1f} points apart: {', '.join(first)}",
        )
    ]

    def below(name: str, above: str, least_above: Callable[[dict[str, float]], float]) -> None:
        if name not in names:
            return
        distance = [least_above(gain) - gain[name] for gain in gains.values()]
        because = f"by {min(distance):.1f} to {max(distance):.1f} points"
        says = f"under bursts {name} gains less than {above}, at every rate"
        found.append(Statement(says=says, holds=min(distance) > 0, because=because))

    below("random", "each of the six", lambda gain: min(gain[name] for name in first))
    if "random" in names:
        below("karmarkar_karp", "random", lambda gain: gain["random"])
    below("lpt", "all others", lambda gain: min(value for name, value in gain.items() if name != "lpt"))
    if len(gains) > 1:
        by_rate = [max(gains[rate][name] for name in first) for rate in sorted(gains, key=float)]
        found.append(
            Statement(
                says="under bursts the gain shrinks as the rate rises",
                holds=all(later < earlier for earlier, later in pairwise(by_rate)),
                because=", ".join(f"{value:+z.1f}%" for value in by_rate),
            )
        )
    return found


def _of_poisson(at_rates: Mapping[str, Any], first: Sequence[str]) -> list[Statement]:
    found = []
    for rate, at in at_rates.items():
        gains = [at["_improvements"][name]["p99_reduction_pct"] for name in first]
        because = f"{min(gains):+z.1f} to {max(gains):+z.1f}%"
        if rate == "150":
            says = "at Poisson 150/s fcfs has a better P99 than each of the six"
            found.append(Statement(says=says, holds=max(gains) < 0, because=because))
        elif rate in ("200", "250", "300"):
            says = f"at Poisson {rate}/s each of the six has a better P99 than fcfs"
            found.append(Statement(says=says, holds=min(gains) > 0, because=because))
    return found


def _means(body: Mapping[str, Any], pattern: str, names: Sequence[str], figure: str) -> list[float]:
    """A figure of each strategy, the mean over the rates that overload fcfs: at others, throughput is the rate."""
    at_rates = [at for at in body[pattern].values() if _overloads(at)] or list(body[pattern].values())
    is_gain = figure.endswith("_pct")
    return [
        sum((at["_improvements"] if is_gain else at)[name][figure] for at in at_rates) / len(at_rates)
        for name in names
    ]


def _overloads(at: Mapping[str, Any]) -> bool:
    return any(fluid["p99_reduction_pct"] is not None for fluid in at.get("_fluid", {}).values())
