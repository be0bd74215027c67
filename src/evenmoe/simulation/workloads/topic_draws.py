"""How the topics of arrivals are drawn: from a mix, in runs of arrivals that share one. Shape letters: N arrivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_number

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_mix(topic_mix: Sequence[float] | None) -> None:
    """Raise ConfigError unless `topic_mix` is None or holds weights of which at least one is above 0."""
    if topic_mix is None:
        return
    for index, weight in enumerate(topic_mix):
        check_number(f"topic_mix[{index}]", weight, 0.0)
    if sum(topic_mix) <= 0:
        raise ConfigError("topic_mix", tuple(topic_mix), "weights of which at least one is above 0")


def check_mix_fits(topic_mix: Sequence[float] | None, topics: Sequence[str]) -> None:
    """Raise ConfigError unless `topic_mix` has one weight for each of `topics`."""
    if topic_mix is not None and len(topic_mix) != len(topics):
        names = ", ".join(topics)
        raise ConfigError("topic_mix", tuple(topic_mix), f"{len(topics)} weights, one for each of {names}")


def topic_drawer(
    topic_mix: Sequence[float] | None, num_topics: int
) -> Callable[[int, np.random.Generator], Ints]:
    """A function (n, rng) -> topics [n], independent draws from the mix; None is the even one."""
    if topic_mix is None:
        return lambda n, rng: rng.integers(num_topics, size=n)
    share = np.cumsum(np.asarray(topic_mix, dtype=np.float64))
    share /= share[-1]
    return lambda n, rng: np.searchsorted(share, rng.random(n), side="right")


def hold_in_runs(topic_N: Ints, starts_N: Bools) -> Ints:
    """[N]: at each place the topic of the latest run's start; the first place must be a start."""
    last_start_N = np.maximum.accumulate(np.where(starts_N, np.arange(len(topic_N)), 0))
    return np.asarray(topic_N[last_start_N])
