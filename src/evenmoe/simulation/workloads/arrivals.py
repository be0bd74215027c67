"""Arrivals: when requests come, and on which topic. Shape letters: N arrivals of a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_number
from evenmoe.simulation.workloads.topic_draws import check_mix, check_mix_fits, hold_in_runs, topic_drawer
from evenmoe.simulation.workloads.traces import Trace

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK = 4096
"""Arrivals that are drawn at a time."""


class Arrival(NamedTuple):
    """One arrival: seconds since the beginning, index of its topic, and its lengths where a trace says them."""

    at_s: float
    topic: int
    prompt_tokens: int | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalBlock:
    """Consecutive arrivals, at least one. The tokens are None where the arrivals do not say them."""

    at_s: Floats
    topic_N: Ints
    prompt_tokens: Ints | None = None
    output_tokens: Ints | None = None


class Arrivals(Protocol):
    """A stream of arrivals, in order of time."""

    @property
    def has_lengths(self) -> bool:
        """Whether arrivals say their prompt and output tokens."""

    def check(self, topics: Sequence[str]) -> None:
        """Raise ConfigError where the arrivals do not go with these topics."""

    def blocks(self, rng: np.random.Generator, topics: Sequence[str]) -> Iterator[ArrivalBlock]:
        """The arrivals in blocks; topics are indices into `topics`. It may never end."""


def stream(
    arrivals: Arrivals, rng: np.random.Generator, topics: Sequence[str] = ("all",)
) -> Iterator[Arrival]:
    """The arrivals one by one. Raises ConfigError where they do not go with `topics`."""
    arrivals.check(topics)
    for block in arrivals.blocks(rng, topics):
        none = [None] * len(block.at_s)
        columns = [
            none if column is None else column.tolist()
            for column in (block.prompt_tokens, block.output_tokens)
        ]
        yield from map(Arrival, block.at_s.tolist(), block.topic_N.tolist(), *columns)


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Independent arrivals: exponential gaps, each arrival's topic drawn for itself.

    rate_per_s: mean arrivals per second.
    topic_mix: a weight for each topic; None: all alike.
    Raises ConfigError.
    """

    rate_per_s: float
    topic_mix: tuple[float, ...] | None = None

    has_lengths = False

    def __post_init__(self) -> None:
        check_number("rate_per_s", self.rate_per_s, 0.0, above=True)
        check_mix(self.topic_mix)

    def check(self, topics: Sequence[str]) -> None:
        """Raise ConfigError where the mix is not one of these topics."""
        check_mix_fits(self.topic_mix, topics)

    def blocks(self, rng: np.random.Generator, topics: Sequence[str]) -> Iterator[ArrivalBlock]:
        """The arrivals in blocks, without end."""
        gap_s = 1 / self.rate_per_s
        return _renewals(rng, len(topics), self.topic_mix, num_in_burst=1.0, gap_s=gap_s, pause_s=gap_s)


@dataclass(frozen=True, kw_only=True)
class Bursty:
    """One burst after another; the requests of a burst share a topic.

    A burst has a geometric number of requests, with exponential gaps at `intensity` times the mean rate. Between
    two bursts is an exponential pause, whose mean is such that the long-run rate is `rate_per_s`.

    rate_per_s: mean arrivals per second, in the long run.
    burst_requests: mean requests of a burst, at least 1.
    burst_s: mean seconds from a burst's first request to its last, given instead of `burst_requests`; the mean requests
        are then 1 + burst_s * rate_per_s * intensity.
    intensity: the rate inside a burst over the mean rate, at least 1. At 1 the times are Poisson's, and only the topics
        come in bursts.
    topic_mix: a weight for each topic, by which each burst draws its own; None: all alike.
    Raises ConfigError.
    """

    rate_per_s: float
    burst_requests: float | None = None
    burst_s: float | None = None
    intensity: float = 2.0
    topic_mix: tuple[float, ...] | None = None

    has_lengths = False

    def __post_init__(self) -> None:
        check_number("rate_per_s", self.rate_per_s, 0.0, above=True)
        check_number("intensity", self.intensity, 1.0)
        if self.burst_requests is not None:
            check_number("burst_requests", self.burst_requests, 1.0)
        if self.burst_s is not None:
            check_number("burst_s", self.burst_s, 0.0)
            if self.burst_requests is not None:
                raise ConfigError(
                    "burst_s", self.burst_s, "None where burst_requests is given: they say the same"
                )
        check_mix(self.topic_mix)

    @property
    def mean_burst_requests(self) -> float:
        """Mean requests of a burst, whichever way it was given; DEFAULT_BURST_REQUESTS if it was not."""
        if self.burst_s is not None:
            return 1 + self.burst_s * self.rate_per_s * self.intensity
        return DEFAULT_BURST_REQUESTS if self.burst_requests is None else self.burst_requests

    def check(self, topics: Sequence[str]) -> None:
        """Raise ConfigError where the mix is not one of these topics."""
        check_mix_fits(self.topic_mix, topics)

    def blocks(self, rng: np.random.Generator, topics: Sequence[str]) -> Iterator[ArrivalBlock]:
        """The arrivals in blocks, without end."""
        requests = self.mean_burst_requests
        gap_s = 1 / (self.rate_per_s * self.intensity)
        pause_s = requests / self.rate_per_s - (requests - 1) * gap_s
        return _renewals(
            rng, len(topics), self.topic_mix, num_in_burst=requests, gap_s=gap_s, pause_s=pause_s
        )


DEFAULT_BURST_REQUESTS = 32.0
"""Mean requests of a burst where neither `burst_requests` nor `burst_s` is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Replayed:
    """The arrivals of a trace, with its lengths. It ends with the trace.

    Topics are those of the trace where it names them. Otherwise they are drawn:

    topic_mix: a weight for each topic; None: all alike.
    topic_run: mean requests, one after another, that share a topic (a geometric number); 1: each draws its own.
    by_session: requests of one session share a topic, drawn once; only for traces that know sessions (Mooncake).
    Raises ConfigError, also for a setting that could not act.
    """

    trace: Trace
    topic_mix: tuple[float, ...] | None = None
    topic_run: float = 1.0
    by_session: bool = False

    has_lengths = True

    def __post_init__(self) -> None:
        check_number("topic_run", self.topic_run, 1.0)
        check_mix(self.topic_mix)
        if self.by_session and self.trace.session_N is None:
            raise ConfigError("by_session", True, f"False: {self.trace.source} does not know sessions")
        if self.by_session and self.topic_run != 1:
            raise ConfigError("topic_run", self.topic_run, "1 with by_session: a session has its topic")
        for name, is_set in (
            ("topic_mix", self.topic_mix is not None),
            ("topic_run", self.topic_run != 1),
            ("by_session", self.by_session),
        ):
            if is_set and self.trace.topic_N is not None:
                allowed = f"left out: {self.trace.source} names each request's topic"
                raise ConfigError(name, getattr(self, name), allowed)

    def check(self, topics: Sequence[str]) -> None:
        """Raise ConfigError where the trace names another topic, or the mix is not one of these topics."""
        check_mix_fits(self.topic_mix, topics)
        for name in self.trace.topics:
            if name not in topics:
                raise ConfigError(f"topic of {self.trace.source}", name, "one of " + ", ".join(topics))

    def blocks(self, rng: np.random.Generator, topics: Sequence[str]) -> Iterator[ArrivalBlock]:
        """The arrivals in blocks of at most BLOCK."""
        trace, topic_N = self.trace, self._topics(rng, topics)
        for start in range(0, len(trace), BLOCK):
            part = slice(start, start + BLOCK)
            yield ArrivalBlock(
                trace.times_s[part], topic_N[part], trace.prompt_tokens[part], trace.output_tokens[part]
            )

    def _topics(self, rng: np.random.Generator, topics: Sequence[str]) -> Ints:
        starts_rng, topics_rng = rng.spawn(2)
        draw, trace = topic_drawer(self.topic_mix, len(topics)), self.trace
        if trace.topic_N is not None:
            index_of_name = np.array([list(topics).index(name) for name in trace.topics], dtype=np.int64)
            return np.asarray(index_of_name[trace.topic_N])
        if self.by_session:
            assert trace.session_N is not None
            return draw(int(trace.session_N.max()) + 1, topics_rng)[trace.session_N]
        starts_N = starts_rng.random(len(trace)) < 1 / self.topic_run
        return hold_in_runs(draw(len(trace), topics_rng), starts_N)


def _renewals(
    rng: np.random.Generator,
    num_topics: int,
    topic_mix: Sequence[float] | None,
    *,
    num_in_burst: float,
    gap_s: float,
    pause_s: float,
) -> Iterator[ArrivalBlock]:
    """Bursts of a geometric number of arrivals: exponential gaps of mean `gap_s`, before each burst one of `pause_s`.

    Whether a burst ends is drawn at each arrival, which makes its length geometric and lets blocks cut it anywhere.
    """
    starts_rng, gaps_rng, topics_rng = rng.spawn(3)
    draw = topic_drawer(topic_mix, num_topics)
    clock_s, topic, is_first = 0.0, 0, True
    while True:
        starts_N = starts_rng.random(BLOCK) < 1 / num_in_burst
        starts_N[0] |= is_first
        at_s = clock_s + np.cumsum(gaps_rng.standard_exponential(BLOCK) * np.where(starts_N, pause_s, gap_s))
        topic_N = draw(BLOCK, topics_rng)
        topic_N[0] = topic_N[0] if starts_N[0] else topic
        topic_N = hold_in_runs(topic_N, starts_N)
        yield ArrivalBlock(at_s, topic_N)
        clock_s, topic, is_first = float(at_s[-1]), int(topic_N[-1]), False
