"""What to send, and when: arrivals joined with texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_int
from evenmoe.simulation.workloads.arrivals import Arrivals, stream
from evenmoe.simulation.workloads.prompts import Prompt

DEFAULT_MAX_TOKENS = 32
"""Output tokens of a request where arrivals say no lengths and none was given."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One request to be sent `at_s` seconds after the start, whatever has become of the others."""

    at_s: float
    text: str
    topic: str
    max_tokens: int


def plan_load(
    arrivals: Arrivals,
    prompts: Sequence[Prompt],
    *,
    num_requests: int,
    speedup: float = 1.0,
    max_tokens: int | None = None,
    seed: int = 0,
) -> list[Planned]:
    """At most `num_requests` requests, one per arrival and the first of them at once, `speedup` times as fast.

    A request takes a text of its arrival's topic. Texts of a topic are taken in a seeded shuffle, all of them before
    any comes again. max_tokens: the most output tokens, of arrivals that say how many; of others, each request's.
    speedup may be infinite: everything at once. Raises ConfigError for no prompts, numbers out of range, and arrivals
    with a topic that no prompt has.
    """
    check_int("num_requests", num_requests, 1)
    if not speedup > 0:
        raise ConfigError("speedup", speedup, "a number above 0")
    if max_tokens is not None:
        check_int("max_tokens", max_tokens, 1)
    if not prompts:
        raise ConfigError("prompts", 0, "at least one")
    arrivals_rng, texts_rng = np.random.default_rng(seed).spawn(2)
    decks = {topic: _Deck(texts, texts_rng) for topic, texts in _by_topic(prompts).items()}
    topics = list(decks)
    planned: list[Planned] = []
    start_s = 0.0
    for arrival in islice(stream(arrivals, arrivals_rng, topics), num_requests):
        start_s = start_s if planned else arrival.at_s
        topic = topics[arrival.topic]
        tokens = arrival.output_tokens or max_tokens or DEFAULT_MAX_TOKENS
        planned.append(
            Planned(
                at_s=(arrival.at_s - start_s) / speedup,
                text=decks[topic].draw(),
                topic=topic,
                max_tokens=tokens if max_tokens is None else min(tokens, max_tokens),
            )
        )
    return planned


def topic_mix(prompts: Sequence[Prompt]) -> tuple[float, ...]:
    """The weights of the topics, in order of appearance: how many prompts each has."""
    return tuple(float(count) for count in Counter(prompt.topic for prompt in prompts).values())


def num_repeated(plan: Sequence[Planned]) -> int:
    """How many requests ask what an earlier one has asked: a server may remember (prefix caching)."""
    return len(plan) - len({planned.text for planned in plan})


class _Deck:
    """Texts in a seeded order; when all are drawn, shuffled anew."""

    def __init__(self, texts: Sequence[str], rng: np.random.Generator) -> None:
        self._texts, self._rng = list(texts), rng
        self._order: list[int] = []

    def draw(self) -> str:
        if not self._order:
            self._order = self._rng.permutation(len(self._texts)).tolist()
        return self._texts[self._order.pop()]


def _by_topic(prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for prompt in prompts:
        found.setdefault(prompt.topic, []).append(prompt.text)
    return found
