"""The study's result as data: CAPS's `results.json`, and beside it what CAPS's lacks.

CAPS's part is {config: {requests, seeds, rates, generated}, strategies, bursty: {"150": {strategy: {p50_mean, p50_std,
...}, "_improvements": {strategy: {...}}}}, poisson: {...}}. Ours are "_intervals" and "_fluid" beside "_improvements",
and the keys format, version, units, versions, study, published, shape, steady_state, latency_quantiles_s and cells.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.simulation.studies.fluid import fluid_gain
from evenmoe.simulation.studies.intervals import paired_gain, spread
from evenmoe.simulation.studies.journal import Row, differences, write_whole
from evenmoe.simulation.studies.paper import BASELINE, QUANTILES, PaperConfig
from evenmoe.simulation.studies.paper_comparison import compare, shape
from evenmoe.simulation.studies.published import read_published
from evenmoe.simulation.studies.steady import SteadyConfig

FORMAT, VERSION = "evenmoe.caps_study", 1
FIGURES = {
    "p50": "latency_p50_s",
    "p90": "latency_p90_s",
    "p99": "latency_p99_s",
    "throughput": "throughput_requests_s",
    "imbalance": "imbalance",
}
"""CAPS's names of a run's figures, and the fields of RunMetrics that they are."""

GAINS = {
    "p99_reduction_pct": ("p99", False),
    "throughput_gain_pct": ("throughput", True),
    "imbalance_reduction_pct": ("imbalance", False),
}
"""CAPS's names of the gains over fcfs: of which figure, and whether more of it is better."""

UNITS = {
    "p50, p90, p99, *_s": "seconds, from arrival to the last token",
    "throughput": "requests per second",
    "imbalance": "time over that of an even load",
    "*_std": "sample standard deviation over seeds",
    "_intervals": "95% interval of the mean gain, paired by seed",
    "_fluid": "P99 gain of a fluid queue with the capacity of full batches; null where fcfs keeps up",
}

By = dict[tuple[str, float, str], list[Row]]


def paper_results(
    config: PaperConfig,
    rows: Sequence[Row],
    *,
    steady_state: Mapping[str, Any] | None,
    versions: Mapping[str, str],
    generated: str,
) -> dict[str, Any]:
    """Everything as plain data, from the rows of all cells of `config`."""
    by: By = {}
    for row in rows:
        by.setdefault((row["pattern"], row["rate_per_s"], row["strategy"]), []).append(row)
    rates = [f"{rate:g}" for rate in config.rates_per_s]
    body: dict[str, Any] = {
        "config": {
            "requests": config.requests,
            "seeds": list(config.seeds),
            "rates": [json.loads(rate) for rate in rates],
            "generated": generated,
        },
        "strategies": list(config.strategies),
    }
    for pattern in config.patterns:
        body[pattern] = {
            name: _at_rate(config, pattern, rate, by)
            for name, rate in zip(rates, config.rates_per_s, strict=True)
        }
    comparison = compare(body, read_published())
    return body | {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "versions": dict(versions),
        "study": config.as_dict(),
        "published": [asdict(line) for line in comparison],
        "shape": [asdict(statement) for statement in shape(body)],
        "steady_state": None if steady_state is None else dict(steady_state),
        "latency_quantiles_s": _quantiles(config, by),
        "cells": [{key: value for key, value in row.items() if key != "latency_quantiles_s"} for row in rows],
    }


def generated_at() -> str:
    """Now, in UTC to the second; the time in SOURCE_DATE_EPOCH where that is set, so that bytes can be the same.

    Raises ConfigError for a SOURCE_DATE_EPOCH that is no whole number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        moment = datetime.now(UTC)
    elif epoch.isdecimal():
        moment = datetime.fromtimestamp(int(epoch), UTC)
    else:
        raise ConfigError("SOURCE_DATE_EPOCH", epoch, "seconds since 1970, a whole number")
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def check_folder(out: Path, config: PaperConfig, steady: SteadyConfig | None) -> None:
    """Raise ConfigError where `out` has the results of another study, FileFormatError where they cannot be read."""
    path = out / "results.json"
    if not path.exists():
        return
    body = read_results(path)
    asked = config.as_dict() | {"steady_state": None if steady is None else steady.as_dict()}
    differ = differences(asked, body["study"] | {"steady_state": (body["steady_state"] or {}).get("config")})
    if differ:
        allowed = f"a folder without results of another study: the one there has other {', '.join(differ)}"
        raise ConfigError("out", str(out), allowed)


def read_results(path: Path) -> dict[str, Any]:
    """Read a `results.json` of this study. Raises FileNotFoundError, FileFormatError."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path} is not a results file: {error}") from error
    if not isinstance(body, dict) or (body.get("format"), body.get("version")) != (FORMAT, VERSION):
        raise FileFormatError(f"{path} is not a results file of {FORMAT}, version {VERSION}")
    return body


def write_results(path: Path, body: Mapping[str, Any]) -> Path:
    """Write as JSON, in one step."""
    return write_whole(path, json.dumps(body, indent=1, allow_nan=False) + "\n")


def _at_rate(config: PaperConfig, pattern: str, rate: float, by: By) -> dict[str, Any]:
    """One rate of one pattern: each strategy's figures, and its gains three times over."""
    values = {
        strategy: {
            name: [row[field] for row in by[pattern, rate, strategy]] for name, field in FIGURES.items()
        }
        for strategy in config.strategies
    }
    found: dict[str, Any] = {}
    for strategy, figures in values.items():
        found[strategy] = {}
        for name, numbers in figures.items():
            over_seeds = spread(numbers)
            found[strategy] |= {f"{name}_mean": over_seeds.mean, f"{name}_std": over_seeds.std}
    others = [strategy for strategy in config.strategies if strategy != BASELINE]
    base = found[BASELINE]
    found["_improvements"] = {
        strategy: {
            gain: _percent(found[strategy][f"{name}_mean"] / base[f"{name}_mean"] - 1, more_is_better)
            for gain, (name, more_is_better) in GAINS.items()
        }
        for strategy in others
    }
    found["_intervals"] = {
        strategy: {
            gain: _interval(values[strategy][name], values[BASELINE][name], more_is_better)
            for gain, (name, more_is_better) in GAINS.items()
        }
        for strategy in others
    }
    found["_fluid"] = {
        strategy: _fluid(config, base["imbalance_mean"], found[strategy]["imbalance_mean"], rate)
        for strategy in others
    }
    return found


def _percent(change: float, more_is_better: bool) -> float:
    return 100 * change if more_is_better else -100 * change


def _interval(values: list[float], baseline: list[float], more_is_better: bool) -> list[float] | None:
    gain = paired_gain(values, baseline, higher_is_better=more_is_better)
    return None if gain.low is None or gain.high is None else [100 * gain.low, 100 * gain.high]


def _fluid(
    config: PaperConfig, fcfs_imbalance: float, imbalance: float, rate: float
) -> dict[str, float | None]:
    """The fluid queue's P99 gain, from what full batches of this imbalance would serve without a pause."""
    fcfs_per_s, per_s = config.capacity_per_s(fcfs_imbalance), config.capacity_per_s(imbalance)
    gain = fluid_gain(config.requests, fcfs_per_s, per_s, rate)
    return {
        "capacity_gain_pct": 100 * (per_s / fcfs_per_s - 1),
        "p99_reduction_pct": None if gain is None else 100 * gain,
    }


def _quantiles(config: PaperConfig, by: By) -> dict[str, Any]:
    """Latency at each percentile of QUANTILES, the mean over seeds, by pattern, rate and strategy."""
    found: dict[str, Any] = {"percentiles": list(QUANTILES)}
    for (pattern, rate, strategy), rows in by.items():
        columns = zip(*(row["latency_quantiles_s"] for row in rows), strict=True)
        means = [round(sum(column) / len(column), 6) for column in columns]
        found.setdefault(pattern, {}).setdefault(f"{rate:g}", {})[strategy] = means
    return found
