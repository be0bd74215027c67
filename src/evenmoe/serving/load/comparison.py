"""Several saved runs side by side: each group of runs against the first, paired by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.simulation.studies.intervals import spread


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a saved run, at `path` in its file. is_absolute: gains are differences."""

    name: str
    path: tuple[str, ...]
    scale: float = 1.0
    digits: int = 2
    higher_is_better: bool = False
    is_absolute: bool = False

    def of(self, body: dict[str, Any]) -> float | None:
        """Its value; None where the run has none."""
        found: Any = body
        for key in self.path:
            found = found.get(key) if isinstance(found, dict) else None
        return float(found) * self.scale if isinstance(found, int | float) else None


FIGURES = (
    Figure(name="finished per second", path=("result", "finished_per_s"), higher_is_better=True),
    Figure(name="tokens per second", path=("result", "tokens_per_s"), digits=0, higher_is_better=True),
    Figure(name="latency P50, s", path=("result", "latency", "p50"), digits=3),
    Figure(name="latency P99, s", path=("result", "latency", "p99"), digits=3),
    Figure(name="first token P50, s", path=("result", "ttft", "p50"), digits=3),
    Figure(name="first token P99, s", path=("result", "ttft", "p99"), digits=3),
    Figure(name="per token, ms", path=("result", "tpot", "mean"), scale=1000, digits=1),
    Figure(name="lost", path=("result", "lost"), digits=0, is_absolute=True),
    Figure(name="straggler factor", path=("server", "loads", "straggler_factor"), digits=3),
    Figure(name="dropped, %", path=("server", "loads", "drop_rate"), scale=100, digits=1, is_absolute=True),
    Figure(name="passed over, mean", path=("server", "scheduling", "mean_passed_over"), is_absolute=True),
    Figure(
        name="scheduling, ms a step", path=("server", "scheduling", "mean_scheduling_ms"), is_absolute=True
    ),
)
"""What runs are compared by."""


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """A file that `evenmoe load --json` wrote."""

    label: str
    seed: int
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of one group: the mean over its runs with its standard error, and the gain over the first group.

    gain is better than the first group where above 0: a share of its value, or a difference where that says more.
    Its standard error is that of the gains paired by seed. None: of the first group, of a figure that some run lacks,
    and standard errors of a single run.
    """

    mean: float
    mean_error: float | None
    gain: float | None
    gain_error: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Cells by figure and group, in order; None where a run of the group has no such figure.

    differing: settings that are not the same in all runs, but for the seed.
    """

    labels: tuple[str, ...]
    num_runs: tuple[int, ...]
    cells: dict[str, tuple[Cell | None, ...]]
    differing: dict[str, tuple[Any, ...]]


def read_run(path: str | Path) -> SavedRun:
    """Read a saved run; its label is the one that it was given, else the file's name.

    Raises FileNotFoundError, FileFormatError.
    """
    path = Path(path)
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        config = body["config"]
        return SavedRun(label=config.get("label") or path.stem, seed=int(config["seed"]), body=body)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is not a result of evenmoe load --json: {error!r}") from error


def compare_runs(runs: Sequence[SavedRun]) -> Comparison:
    """Compare groups of runs that share a label with the first group.

    Raises ConfigError unless there are two groups or more, of the same seeds, each seed once.
    """
    groups: dict[str, list[SavedRun]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    if len(groups) < 2:
        raise ConfigError("label", list(groups), "at least two labels to compare")
    ordered = [sorted(group, key=lambda run: run.seed) for group in groups.values()]
    for group in ordered:
        seeds = [run.seed for run in group]
        if seeds != [run.seed for run in ordered[0]] or len(set(seeds)) < len(seeds):
            wanted = f"the seeds of {ordered[0][0].label}, each once: runs are paired by seed"
            raise ConfigError(f"seeds of {group[0].label}", seeds, wanted)
    return Comparison(
        labels=tuple(groups),
        num_runs=tuple(map(len, ordered)),
        cells={figure.name: tuple(_cells(figure, ordered)) for figure in FIGURES},
        differing=_differing(runs),
    )


def _cells(figure: Figure, groups: Sequence[Sequence[SavedRun]]) -> Iterable[Cell | None]:
    base = _values(figure, groups[0])
    for group in groups:
        values = _values(figure, group)
        if values is None:
            yield None
            continue
        mean, mean_error = _mean(values)
        gain = gain_error = None
        if group is not groups[0] and base is not None and (figure.is_absolute or min(base) > 0):
            gain, gain_error = _mean([_gain(figure, *pair) for pair in zip(values, base, strict=True)])
        yield Cell(mean=mean, mean_error=mean_error, gain=gain, gain_error=gain_error)


def _values(figure: Figure, group: Sequence[SavedRun]) -> list[float] | None:
    found = [figure.of(run.body) for run in group]
    values = [value for value in found if value is not None]
    return values if len(values) == len(found) else None


def _gain(figure: Figure, value: float, base: float) -> float:
    sign = 1.0 if figure.higher_is_better else -1.0
    return sign * (value - base if figure.is_absolute else value / base - 1.0)


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error."""
    found = spread(values)
    return found.mean, found.std / math.sqrt(len(values)) if len(values) > 1 else None


def _differing(runs: Sequence[SavedRun]) -> dict[str, tuple[Any, ...]]:
    """Settings that differ between runs, with their values."""
    ignored = ("label", "seed", "url")
    names = dict.fromkeys(name for run in runs for name in run.body["config"] if name not in ignored)
    found = {name: [run.body["config"].get(name) for run in runs] for name in names}
    return {
        name: tuple(values) for name, values in found.items() if any(value != values[0] for value in values)
    }
