"""Results of a trace study: each strategy's figures and gains over fcfs, over seeds, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from evenmoe.simulation.studies.advice import Advice, Baseline, Change, Outcome, advise
from evenmoe.simulation.studies.intervals import Spread, paired_gain, spread
from evenmoe.simulation.studies.journal import Row

BASELINE = "fcfs"
FIGURES = (
    "latency_mean_s",
    "latency_p50_s",
    "latency_p90_s",
    "latency_p99_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "throughput_requests_s",
    "throughput_tokens_s",
    "straggler_factor",
    "imbalance",
    "drop_rate",
    "utilisation",
    "queue_depth_mean",
    "passed_over_mean",
    "passed_over_max",
)
"""Metrics of a run whose mean over seeds is reported."""
GAINS = (
    "latency_mean_s",
    "latency_p50_s",
    "latency_p90_s",
    "latency_p99_s",
    "ttft_p99_s",
    "straggler_factor",
    "drop_rate",
)
"""Those whose improvement over fcfs is, lower being better; beside them CAPACITY."""
CAPACITY = "capacity"

Variant = Literal["as is", "same lengths", "same topics"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)
"""Of the requests. "same lengths": all as long as the mean. "same topics": also all topics with the mean load."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Improvement over fcfs on the same requests, as a share of fcfs's value, positive where better.

    as_is: with the requests as they are.
    same_lengths: with all requests equally long, so that only their experts differ.
    same_topics: also with all topics alike, so that what remains is gained on how single requests differ from their
    topic. Each is at the same share of fcfs's capacity with such requests. The last two are None where not asked for.
    """

    as_is: Spread
    same_lengths: Spread | None = None
    same_topics: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class StrategyLine:
    """One strategy over seeds.

    figures: FIGURES at the rate asked for. capacity_per_s, full_straggler_factor: with all requests waiting at once.
    gains: over fcfs, of GAINS and CAPACITY; None for fcfs itself, and where fcfs's value is 0.
    """

    strategy: str
    figures: Mapping[str, Spread]
    capacity_per_s: Spread
    full_straggler_factor: Spread
    gains: Mapping[str, Gain | None]


@dataclass(frozen=True, kw_only=True)
class TraceResults:
    """own_rate_per_s: the trace's. rate_per_s: what was run. capacity_per_s: of fcfs."""

    own_rate_per_s: float
    rate_per_s: float
    capacity_per_s: float
    num_requests: int
    lines: tuple[StrategyLine, ...]
    advice: Advice

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Runs by variant of the requests. timed: at the rate asked for. saturated: with all requests at once."""

    timed: Mapping[Variant, Sequence[Row]]
    saturated: Mapping[Variant, Sequence[Row]]


def strategy_line(strategy: str, rows: Rows) -> StrategyLine:
    """One strategy's line, of all strategies' rows."""
    own, full = rows_of(rows.timed["as is"], strategy), rows_of(rows.saturated["as is"], strategy)
    gains: dict[str, Gain | None] = dict.fromkeys((*GAINS, CAPACITY))
    if strategy != BASELINE:
        gains = {name: _gain(name, strategy, rows.timed) for name in GAINS}
        gains[CAPACITY] = _gain(CAPACITY, strategy, rows.saturated)
    return StrategyLine(
        strategy=strategy,
        figures={name: spread([row[name] for row in own]) for name in FIGURES},
        capacity_per_s=spread([row["throughput_requests_s"] for row in full]),
        full_straggler_factor=spread([row["straggler_factor"] for row in full]),
        gains=gains,
    )


def advice_on(lines: Sequence[StrategyLine], rate_per_s: float, batch_size: int) -> Advice:
    """The sentence for these lines, fcfs's first. batch_size: how many requests leave the queue at a time."""
    fcfs, *others = lines
    baseline = Baseline(
        straggler_factor=fcfs.full_straggler_factor.mean,
        overloaded=rate_per_s >= fcfs.capacity_per_s.mean,
        waiting=fcfs.figures["queue_depth_mean"].mean,
        batch_size=batch_size,
    )
    return advise(
        baseline,
        [
            Outcome(
                strategy=line.strategy,
                mean=_change(line, "latency_mean_s"),
                p99=_change(line, "latency_p99_s"),
                capacity=_change(line, CAPACITY),
                straggler_factor=line.full_straggler_factor.mean,
                overloaded=rate_per_s >= line.capacity_per_s.mean,
                drop=_change(line, "drop_rate") if line.gains["drop_rate"] is not None else None,
            )
            for line in others
        ],
    )


def rows_of(rows: Sequence[Row], strategy: str) -> list[Row]:
    """The strategy's rows, by seed."""
    return sorted((row for row in rows if row["strategy"] == strategy), key=lambda row: int(row["seed"]))


def _gain(name: str, strategy: str, rows: Mapping[Variant, Sequence[Row]]) -> Gain | None:
    """Over fcfs, for each variant that was run; None where fcfs has nothing to improve."""
    by_variant: dict[Variant, Spread] = {}
    for variant, some in rows.items():
        own, base = ([_value(name, row) for row in rows_of(some, who)] for who in (strategy, BASELINE))
        if min(base) <= 0:
            return None
        by_variant[variant] = paired_gain(own, base, higher_is_better=name == CAPACITY)
    return Gain(
        as_is=by_variant["as is"],
        same_lengths=by_variant.get("same lengths"),
        same_topics=by_variant.get("same topics"),
    )


def _value(name: str, row: Row) -> float:
    return float(row["throughput_requests_s" if name == CAPACITY else name])


def _change(line: StrategyLine, name: str) -> Change:
    gain = line.gains[name]
    assert gain is not None
    return Change(total=gain.as_is, same_lengths=gain.same_lengths)
