"""Prompts: what the requests of a live run ask, by topic, as token ids. Shape letters: T tokens of one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.simulation.workloads.prompts import read_prompts, tokenized

Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """Prompts [T] by topic, each of at least one token; topics in order of appearance.

    Raises ConfigError where there is no topic, or one without a prompt.
    """

    by_topic: Mapping[str, tuple[Ids, ...]]

    def __post_init__(self) -> None:
        if not self.by_topic:
            raise ConfigError("prompts", [], "at least one prompt")
        for topic, prompts in self.by_topic.items():
            if not prompts or min(map(len, prompts)) < 1:
                raise ConfigError(f"prompts of {topic!r}", len(prompts), "one or more, each of some tokens")

    @property
    def topics(self) -> tuple[str, ...]:
        """The names of the topics."""
        return tuple(self.by_topic)

    def in_turn(self) -> Iterator[Ids]:
        """Every prompt once: the first of each topic, then the second of each, and so on."""
        for ids_G in zip_longest(*self.by_topic.values()):
            yield from (ids_T for ids_T in ids_G if ids_T is not None)

    def split(self, share: float) -> tuple[Prompts, Prompts]:
        """The first `share` of every topic's prompts, and the rest; each side has at least one of each topic.

        Raises ConfigError for a topic of a single prompt.
        """
        first: dict[str, tuple[Ids, ...]] = {}
        rest: dict[str, tuple[Ids, ...]] = {}
        for topic, prompts in self.by_topic.items():
            if len(prompts) < 2:
                allowed = "at least 2 to share out between what is learned from and what is served"
                raise ConfigError(f"prompts of {topic!r}", len(prompts), allowed)
            cut = min(max(round(share * len(prompts)), 1), len(prompts) - 1)
            first[topic], rest[topic] = prompts[:cut], prompts[cut:]
        return Prompts(by_topic=first), Prompts(by_topic=rest)


def prompts_of_texts(texts: Mapping[str, str], tokenizer: Any, prompt_tokens: int) -> Prompts:
    """Each text is one topic, cut into as many prompts of exactly `prompt_tokens` tokens as it holds.

    Raises ConfigError for a text shorter than one prompt.
    """
    by_topic: dict[str, tuple[Ids, ...]] = {}
    for topic, text in texts.items():
        ids = np.asarray(_encode(tokenizer, text), dtype=np.int64)
        num_prompts = len(ids) // prompt_tokens
        if num_prompts == 0:
            raise ConfigError("prompt-tokens", prompt_tokens, f"at most the {len(ids)} tokens of {topic!r}")
        by_topic[topic] = tuple(ids[: num_prompts * prompt_tokens].reshape(num_prompts, prompt_tokens))
    return Prompts(by_topic=by_topic)


def prompts_of_files(paths: Sequence[Path], tokenizer: Any, prompt_tokens: int) -> Prompts:
    """The prompts of files, at most `prompt_tokens` tokens of each.

    Raises ConfigError where they hold none, and as `evenmoe.simulation.workloads.prompts.read_prompts` does.
    """
    found = [prompt for path in paths for prompt in read_prompts(path)]
    by_topic = tokenized(found, lambda text: _encode(tokenizer, text)[:prompt_tokens])
    return Prompts(by_topic={topic: tuple(prompts) for topic, prompts in by_topic.items()})


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
