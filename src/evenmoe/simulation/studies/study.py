"""Study: a grid of cells, each a simulated run, over processes; resumable, in one order whatever finishes first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Protocol

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.journal import Journal, Row

CELLS_IN_CHUNK = 4
"""Cells that a process takes at a time: few, so that little is lost when interrupted; they share a workload."""

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a strategy on the arrivals of a pattern, a rate and a seed."""

    pattern: str
    rate_per_s: float
    seed: int
    strategy: str

    @property
    def workload(self) -> tuple[str, float, int]:
        """What its requests depend on: cells that agree in it serve the same requests."""
        return self.pattern, self.rate_per_s, self.seed

    @property
    def key(self) -> str:
        """A name, unique within a study."""
        return f"{self.pattern}/{self.rate_per_s!r}/{self.seed}/{self.strategy}"


class RunCells(Protocol):
    """Runs cells of one workload; it is sent to processes, so it and its rows must pickle."""

    def __call__(self, cells: Sequence[Cell]) -> list[Row]:
        """A row for each cell, in order."""


Announce = Callable[[int, int], None]
"""Told how many cells are finished, and of how many."""


def grid(
    patterns: Sequence[str], rates_per_s: Sequence[float], seeds: Sequence[int], strategies: Sequence[str]
) -> list[Cell]:
    """All combinations, those of one workload next to each other."""
    return [
        Cell(pattern=pattern, rate_per_s=rate, seed=seed, strategy=strategy)
        for pattern in patterns
        for rate in rates_per_s
        for seed in seeds
        for strategy in strategies
    ]


def run_cells(
    cells: Sequence[Cell],
    run: RunCells,
    *,
    journal: Journal,
    jobs: int | None = None,
    announce: Announce | None = None,
) -> list[Row]:
    """The rows of all cells in their order; those that the journal has are not run again.

    jobs: processes, one BLAS thread each; None: as many as there are cores. 1 runs everything in this process.
    When interrupted, processes are ended, and what had finished is in the journal.
    Raises ConfigError.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError("jobs", jobs, "at least 1, or None for all cores")
    todo = [cell for cell in cells if cell.key not in journal]
    chunks = [
        group[start : start + CELLS_IN_CHUNK]
        for group in (list(members) for _, members in groupby(todo, key=lambda cell: cell.workload))
        for start in range(0, len(group), CELLS_IN_CHUNK)
    ]
    num_jobs = min(jobs or os.cpu_count() or 1, max(len(chunks), 1))
    done = len(cells) - len(todo)
    if announce:
        announce(done, len(cells))
    for chunk, rows in _finished(chunks, run, num_jobs):
        for cell, row in zip(chunk, rows, strict=True):
            journal.add(cell.key, row)
        done += len(chunk)
        if announce:
            announce(done, len(cells))
    return [journal[cell.key] for cell in cells]


def _finished(
    chunks: Sequence[Sequence[Cell]], run: RunCells, num_jobs: int
) -> Iterator[tuple[Sequence[Cell], list[Row]]]:
    """Chunks with their rows, as they finish."""
    if num_jobs == 1:
        for chunk in chunks:
            yield chunk, run(chunk)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", n_jobs=num_jobs, inner_max_num_threads=1):
        parallel = Parallel(return_as="generator_unordered", batch_size=1, max_nbytes=None)
        yield from parallel(delayed(_in_worker)(run, chunk, os.getpid()) for chunk in chunks)


def _in_worker(run: RunCells, chunk: Sequence[Cell], parent: int) -> tuple[Sequence[Cell], list[Row]]:
    _end_with(parent)
    return chunk, run(chunk)


@lru_cache
def _end_with(parent: int) -> None:
    """End this process when its parent is gone: one that is killed cannot end its workers itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
