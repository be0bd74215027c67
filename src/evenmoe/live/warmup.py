"""Warm-up: what is known of model and machine before anything is served: batch times, and loads of a few prompts.

Shape letters: T tokens of a prompt, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.live.clock import Clock
from evenmoe.live.engine import Engine, Loads
from evenmoe.live.execution import padded_tokens
from evenmoe.live.prompts import Ids, Prompts
from evenmoe.live.timing import BatchTime, fit_batch_time

REPEATS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A prompt that ran in the warm-up: its tokens [T], and the pairs that it asked for [L, E]."""

    ids_T: Ids
    load_LE: Loads


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmUp:
    """batch_time: fitted. full_batch_s: mean time of a full batch. samples: by topic, at least one of each."""

    batch_time: BatchTime
    full_batch_s: float
    samples: dict[str, tuple[Sample, ...]]


def warm_up(
    prompts: Prompts,
    engine: Engine,
    clock: Clock,
    *,
    max_batch_size: int,
    peak_pairs: Callable[[Loads], float] | None = None,
    repeats: int = REPEATS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> WarmUp:
    """Run batches of 1, 2, 4 ... `max_batch_size` prompts, all topics in turn, `repeats` times.

    A first pass is not timed. It goes on until each topic has been there.
    peak_pairs: the pairs of the busiest device of a load [L, E], where the time depends on them; every other pass then
        has batches of a single topic.
    Raises ConfigError for fewer than one repeat.
    """
    if repeats < 1:
        raise ConfigError("repeats", repeats, "at least 1")
    sizes = sorted({min(2**power, max_batch_size) for power in range(max_batch_size.bit_length() + 1)})
    steps = max(repeats, -(-len(prompts.topics) // sum(sizes))) + 1
    tokens: list[int] = []
    seconds: list[float] = []
    samples: dict[str, list[Sample]] = {topic: [] for topic in prompts.topics}
    peaks: list[float] = []
    mixed, alike = _in_turn(prompts, 1), _in_turn(prompts, max_batch_size)
    for step in range(steps):
        for place, size in enumerate(sizes):
            supply = mixed if peak_pairs is None or step % 2 else alike
            batch = [next(supply) for _ in range(size)]
            ids_B = [ids_T for _, ids_T in batch]
            started_s = clock.now_s()
            load_BLE = engine.run(ids_B)
            if step > 0:
                seconds.append(clock.now_s() - started_s)
                tokens.append(padded_tokens([len(ids_T) for ids_T in ids_B]))
                if peak_pairs is not None:
                    peaks.append(peak_pairs(load_BLE.sum(0)))
            for (topic, ids_T), load_LE in zip(batch, load_BLE, strict=True):
                samples[topic].append(Sample(ids_T=ids_T, load_LE=load_LE))
            on_progress(step * len(sizes) + place + 1, steps * len(sizes))
    return WarmUp(
        batch_time=fit_batch_time(tokens, seconds, peaks or None),
        full_batch_s=float(np.mean(seconds[len(sizes) - 1 :: len(sizes)])),
        samples={topic: tuple(some) for topic, some in samples.items()},
    )


def _in_turn(prompts: Prompts, in_a_row: int) -> Iterator[tuple[str, Ids]]:
    """(topic, prompt), so many of each topic in turn, and each topic's prompts in turn, without end."""
    supplies = {topic: cycle(ids_N) for topic, ids_N in prompts.by_topic.items()}
    while True:
        for topic, supply in supplies.items():
            for _ in range(in_a_row):
                yield topic, next(supply)
