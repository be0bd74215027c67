"""What to send, and when: a trace's arrivals joined with texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.workloads.prompts import Prompt
from evenmoe.simulation.workloads.traces import Trace


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One request to be sent `at_s` seconds after the start, whatever has become of the others."""

    at_s: float
    text: str
    topic: str
    max_tokens: int


def plan_load(
    trace: Trace,
    prompts: Sequence[Prompt],
    *,
    speedup: float = 1.0,
    most_output_tokens: int | None = None,
    seed: int = 0,
) -> list[Planned]:
    """One request per arrival of `trace`, `speedup` times as fast, with the trace's output length.

    Texts are taken in a seeded shuffle, all of them before any comes again. Where the trace has topics, a
    request takes a text of its topic. Raises ConfigError for no prompts, for a speedup that is not
    above 0, and for a trace with a topic that no prompt has.
    """
    check_number("speedup", speedup, 0.0, above=True)
    if most_output_tokens is not None:
        check_int("most_output_tokens", most_output_tokens, 1)
    if not prompts:
        raise ConfigError("prompts", 0, "at least one")
    decks = _decks(trace, prompts, np.random.default_rng(seed))
    planned = []
    for place, (at_s, tokens) in enumerate(zip(trace.times_s, trace.output_tokens, strict=True)):
        prompt = decks["" if trace.topic_N is None else trace.topics[trace.topic_N[place]]].draw()
        most = int(tokens) if most_output_tokens is None else min(int(tokens), most_output_tokens)
        planned.append(
            Planned(at_s=float(at_s) / speedup, text=prompt.text, topic=prompt.topic, max_tokens=most)
        )
    return planned


class _Deck:
    """Prompts in a seeded order; when all are drawn, shuffled anew."""

    def __init__(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> None:
        self._prompts, self._rng = list(prompts), rng
        self._order: list[int] = []

    def draw(self) -> Prompt:
        if not self._order:
            self._order = self._rng.permutation(len(self._prompts)).tolist()
        return self._prompts[self._order.pop()]


def _decks(trace: Trace, prompts: Sequence[Prompt], rng: np.random.Generator) -> dict[str, _Deck]:
    if trace.topic_N is None:
        return {"": _Deck(prompts, rng)}
    known = {prompt.topic for prompt in prompts}
    missing = [topic for topic in trace.topics if topic not in known]
    if missing:
        raise ConfigError(
            "topic",
            missing[0],
            f"a topic of the prompts, as {trace.source} has topics: {', '.join(sorted(known))}",
        )
    return {
        topic: _Deck([prompt for prompt in prompts if prompt.topic == topic], rng) for topic in trace.topics
    }
