"""Cloze items made from text: the beginning of a passage, and its true continuation among those of other passages.

Words are what white space separates, so that items are the same for every tokenizer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from evenmoe.errors import ConfigError

NUM_CHOICES = 4
NUM_ITEMS = 240
CONTEXT_WORDS = 26
CONTINUATION_WORDS = 4


@dataclass(frozen=True, kw_only=True)
class ClozeItem:
    """One question. choices: what may follow `context`, white space first, the same in all; `gold` is the true one."""

    item: str
    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, kw_only=True)
class _Passage:
    context: str
    space: str
    continuation: str


def cloze_items(
    domain: str,
    text: str,
    *,
    num_items: int = NUM_ITEMS,
    context_words: int = CONTEXT_WORDS,
    continuation_words: int = CONTINUATION_WORDS,
    seed: int = 0,
) -> list[ClozeItem]:
    """Return items from passages that are spread evenly over `text` and do not overlap.

    An item's wrong choices are the continuations of three other passages of the same text, of as many words, no two
    choices alike; which ones, and where the true one stands, is drawn from a hash of seed, domain and item, so that the
    items are the same everywhere.
    Raises ConfigError for a text too short for that many passages, or with too few different continuations.
    """
    passages = _passages(domain, text, num_items, context_words, continuation_words)
    continuations = [passage.continuation for passage in passages]
    if len(set(continuations)) < NUM_CHOICES:
        raise ConfigError("text", domain, f"one with at least {NUM_CHOICES} different continuations")
    items = []
    for number, passage in enumerate(passages):
        key = f"{seed}/{domain}/{number}"
        choices = _others(key, continuations, passage.continuation)
        gold = _draw(f"{key}/gold", NUM_CHOICES)
        choices.insert(gold, passage.continuation)
        items.append(
            ClozeItem(
                item=f"{domain}-{number}",
                context=passage.context,
                choices=tuple(passage.space + choice for choice in choices),
                gold=gold,
            )
        )
    return items


def _passages(
    domain: str, text: str, num_items: int, context_words: int, continuation_words: int
) -> list[_Passage]:
    words = [match.span() for match in re.finditer(r"\S+", text)]
    needed = num_items * (context_words + continuation_words)
    if len(words) < needed:
        raise ConfigError(
            "words",
            needed,
            f"at most the {len(words)} of {domain!r}; ask for fewer or shorter items, or give more text",
        )
    starts = [number * len(words) // num_items for number in range(num_items)]
    passages = []
    for start in starts:
        middle, stop = start + context_words, start + context_words + continuation_words
        context_end, continuation_start = words[middle - 1][1], words[middle][0]
        passages.append(
            _Passage(
                context=text[words[start][0] : context_end],
                space=text[context_end:continuation_start],
                continuation=text[continuation_start : words[stop - 1][1]],
            )
        )
    return passages


def _others(key: str, continuations: Sequence[str], true: str) -> list[str]:
    """The first wrong continuations that the hash names."""
    found: list[str] = []
    draw = 0
    while len(found) < NUM_CHOICES - 1:
        candidate = continuations[_draw(f"{key}/{draw}", len(continuations))]
        if candidate != true and candidate not in found:
            found.append(candidate)
        draw += 1
    return found


def _draw(key: str, below: int) -> int:
    """A whole number under `below`, the same for the same key on every machine and version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % below
