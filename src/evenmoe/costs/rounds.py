"""Rounds: jobs that take turns, so that a disturbance of the machine falls on all of them, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)
Clock = Callable[[], float]
"""Seconds from some fixed moment, as time.perf_counter gives them."""


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """wall: for exchanges, and for how long to go on. work: for what a rank does by itself."""

    wall: Clock = time.perf_counter
    work: Clock = time.perf_counter

    @classmethod
    def for_threads(cls, threads: int) -> Clocks:
        """Return the clocks for ranks of so many threads.

        Work on one thread is timed by that thread's own CPU clock: on an idle machine the same as wall time, memory
        contention included, and not disturbed by what else wants the CPU. Several threads have only the wall.
        """
        return cls(work=time.thread_time if threads == 1 else time.perf_counter)


class Meeting(Protocol):
    """What the ranks that measure at the same time do together."""

    def barrier(self) -> None:
        """Return when every rank is here."""

    def slowest(self, seconds: float) -> float:
        """Return the largest of the ranks' values; the same on each."""


class Alone:
    """A meeting of one."""

    def barrier(self) -> None:
        """Return at once."""

    def slowest(self, seconds: float) -> float:
        """Return the value."""
        return seconds


def median_times(
    jobs: Mapping[str, Callable[[], Mapping[Key, float]]],
    *,
    meeting: Meeting,
    clock: Clock,
    budget_s: float,
    least_rounds: int,
    most_rounds: int,
    on_job: Callable[[str, int], None] = lambda name, jobs_run: None,
) -> dict[Key, float]:
    """Run all jobs in turn, round after round, and return the median of each time over the rounds.

    A job returns its times by key, the same keys each time; all ranks start it together. Another round begins while it
    should end within `budget_s` by the slowest rank's pace so far, at most `most_rounds`; `least_rounds` run whatever
    they take. on_job: told each job's name and the number of jobs run before it.
    """
    times: dict[Key, list[float]] = {}
    start, num_rounds, jobs_run = clock(), 0, 0
    while num_rounds < most_rounds:
        for name, job in jobs.items():
            on_job(name, jobs_run)
            meeting.barrier()
            for key, value in job().items():
                times.setdefault(key, []).append(value)
            jobs_run += 1
        num_rounds += 1
        elapsed_s = meeting.slowest(clock() - start)
        if num_rounds >= least_rounds and elapsed_s * (num_rounds + 1) / num_rounds > budget_s:
            break
    return {key: median(values) for key, values in times.items()}
