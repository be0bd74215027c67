"""The highest rate that a server keeps up with, and a long run at some rate with the server's memory watched."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.serving.load.client import ClientOptions, run_load
from evenmoe.serving.load.plan import plan_load, topic_mix
from evenmoe.serving.load.record import Record
from evenmoe.serving.load.results import LoadResult, summarise
from evenmoe.serving.load.trend import BLOCKS, Trend, backlog_trend, trend
from evenmoe.simulation.workloads.arrivals import Poisson
from evenmoe.simulation.workloads.prompts import Prompt

STEP = 0.95
"""Each rate that is tried is this share of the one before."""
LOWEST = 0.4
"""The search ends at this share of the capacity."""
MOST_LEFT_BEHIND = 0.05
"""A server keeps up where the backlog grows by at most so many requests per request. On a few hundred random arrivals a
smaller growth cannot be told from chance."""
SETTLING = 0.2
"""The share of a run after which memory is expected to be flat: by then every buffer has had its largest batch."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What is sent: texts at random times, of exactly the mean rate that is asked for; each has as many new tokens."""

    prompts: Sequence[Prompt]
    max_tokens: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One rate that was tried."""

    rate_per_s: float
    backlog: Trend
    keeps_up: bool
    result: LoadResult


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A long run. memory: bytes per finished request, after SETTLING; None where nobody watched or too little was seen.
    floor: the same of the least in each block of neighbouring samples: what is in use. A process that gives free memory
    back now and then goes up and down above it, the higher the busier it is; what leaks raises it.

    samples: (seconds, finished requests, bytes).
    """

    rate_per_s: float
    result: LoadResult
    backlog: Trend
    memory: Trend | None
    floor: Trend | None
    samples: tuple[tuple[float, int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """The run as data."""
        return asdict(self)


def capacity(options: ClientOptions, traffic: Traffic, num_requests: int) -> float:
    """Requests per second that a server finishes when all are there at once."""
    _records, result = _send(options, traffic, float("inf"), num_requests)
    return result.finished_per_s


def probes(
    options: ClientOptions, traffic: Traffic, capacity_per_s: float, num_requests: int
) -> Iterator[Probe]:
    """Try lower and lower rates, from the capacity down, until the server keeps up with one: the last that comes.

    It keeps up where every request finishes and the backlog grows by at most MOST_LEFT_BEHIND. Raises ConfigError where
    it does not even at LOWEST of the capacity.
    """
    share = 1.0
    while share >= LOWEST:
        records, result = _send(options, traffic, share * capacity_per_s, num_requests)
        backlog = backlog_trend(records)
        finished = result.outcomes.get("finished", 0)
        keeps_up = finished == num_requests and backlog.slope <= MOST_LEFT_BEHIND
        yield Probe(rate_per_s=share * capacity_per_s, backlog=backlog, keeps_up=keeps_up, result=result)
        if keeps_up:
            return
        share *= STEP
    raise ConfigError("rate", share * capacity_per_s, "a rate that the server keeps up with: none was found")


def soak(
    options: ClientOptions,
    traffic: Traffic,
    rate_per_s: float,
    num_requests: int,
    memory: Callable[[], int] | None = None,
    every_s: float = 0.5,
) -> Soak:
    """Send `num_requests` at a rate. memory: gives the server's bytes, asked every `every_s` seconds."""
    finished = [0]
    samples: list[tuple[float, int, int]] = []

    def sample(now_s: float) -> None:
        assert memory is not None
        samples.append((now_s, finished[0], memory()))

    def told(_record: Record) -> None:
        finished[0] += 1

    with _every(every_s, None if memory is None else sample):
        records, result = _send(options, traffic, rate_per_s, num_requests, told)
    settled = _settled(samples, num_requests)
    return Soak(
        rate_per_s=rate_per_s,
        result=result,
        backlog=backlog_trend(records),
        memory=None if settled is None else trend(*settled),
        floor=None if settled is None else trend(*_least(*settled), blocks=BLOCKS),
        samples=tuple(samples),
    )


def _settled(
    samples: Sequence[tuple[float, int, int]], num_requests: int
) -> tuple[list[int], list[int]] | None:
    """Finished requests and bytes of the samples after SETTLING; None where they are too few."""
    kept = [sample for sample in samples if sample[1] >= SETTLING * num_requests]
    if len(kept) < 2 * BLOCKS:
        return None
    return [sample[1] for sample in kept], [sample[2] for sample in kept]


def _least(finished: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    """The middle and the least of each of BLOCKS parts of neighbours."""
    parts = np.array_split(np.arange(len(sizes)), BLOCKS)
    middles = [float(np.mean([finished[index] for index in part])) for part in parts]
    return middles, [min(sizes[index] for index in part) for part in parts]


def _send(
    options: ClientOptions,
    traffic: Traffic,
    rate_per_s: float,
    num_requests: int,
    told: Callable[[Record], None] | None = None,
) -> tuple[list[Record], LoadResult]:
    drawn = plan_load(
        Poisson(rate_per_s=1.0, topic_mix=topic_mix(traffic.prompts)),
        traffic.prompts,
        num_requests=num_requests,
        max_tokens=traffic.max_tokens,
        seed=traffic.seed,
    )
    # Few random arrivals have another rate than they were drawn with: here it is the one that is meant.
    scale = (num_requests - 1) / rate_per_s / drawn[-1].at_s
    plan = [replace(one, at_s=one.at_s * scale) for one in drawn]
    records, seconds = asyncio.run(run_load(plan, options, told))
    return records, summarise(records, seconds)


@contextmanager
def _every(seconds: float, call: Callable[[float], None] | None) -> Iterator[None]:
    """Call with the seconds since the start, again and again, as long as this lasts."""
    if call is None:
        yield
        return
    stop, start = threading.Event(), time.monotonic()

    def loop() -> None:
        while not stop.wait(seconds):
            call(time.monotonic() - start)

    thread = threading.Thread(target=loop, name="watching", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
