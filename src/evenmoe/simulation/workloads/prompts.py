"""Prompts from files: `.jsonl` with a text field, or `.txt` with one prompt a line; `.gz` of either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.simulation.workloads.text_lines import Place, check_suffix, json_object, read_text

Ints = NDArray[np.int64]

SUFFIXES = (".jsonl", ".txt")
TEXT_FIELDS = ("prompt", "question", "text", "turns")
TOPIC_FIELDS = ("topic", "category")
"""Fields that hold a prompt, and its topic, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text that a request asks, and its topic."""

    text: str
    topic: str


def read_prompts(
    path: str | Path, *, field: str | None = None, topic_field: str | None = None
) -> list[Prompt]:
    """The prompts of a file, in its order.

    field: of each `.jsonl` object, the text, or a list of texts of which the first is taken (a conversation's opening);
        None: the first of TEXT_FIELDS that the first object has.
    topic_field: of each object, its topic; None: the first of TOPIC_FIELDS that the object has, else the file's name
        without suffixes, which is the topic of every line of a `.txt`.
    Raises FileNotFoundError; FileFormatError, which names file, line, field, value and what is allowed.
    """
    path = Path(path)
    suffix = check_suffix(path, SUFFIXES, "a file of prompts")
    place = Place(path)
    if suffix == ".txt" and (field is not None or topic_field is not None):
        place.refuse(
            "field" if field is not None else "topic_field",
            field or topic_field,
            "nothing: .txt has no fields",
        )
    stem = path.name.removesuffix(".gz").removesuffix(suffix)
    prompts = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place.line = number
        if suffix == ".txt":
            prompts.append(Prompt(text=line.strip(), topic=stem))
            continue
        body = json_object(line, place)
        field = field or _text_field(body, place)
        name = topic_field or next((name for name in TOPIC_FIELDS if name in body), None)
        topic = stem if name is None else _text(name, body, place)
        prompts.append(Prompt(text=_text(field, body, place), topic=topic))
    return prompts


def tokenized(prompts: Iterable[Prompt], tokenize: Callable[[str], Sequence[int]]) -> dict[str, list[Ints]]:
    """The token ids of each prompt, by topic in order of appearance. Prompts without a token are left out."""
    by_topic: dict[str, list[Ints]] = {}
    for prompt in prompts:
        ids = np.asarray(tokenize(prompt.text), dtype=np.int64)
        if len(ids):
            by_topic.setdefault(prompt.topic, []).append(ids)
    return by_topic


def _text_field(body: dict[str, Any], place: Place) -> str:
    for name in TEXT_FIELDS:
        if name in body:
            return name
    place.refuse("fields", ",".join(body), f"one of {', '.join(TEXT_FIELDS)}, or the name of another given")


def _text(field: str, body: dict[str, Any], place: Place) -> str:
    if field not in body:
        place.refuse("fields", ",".join(body), f"a field {field}")
    value = body[field]
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        place.refuse(field, body[field], "a text that is not blank, or a list that begins with one")
    return value
