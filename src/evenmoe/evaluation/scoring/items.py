"""Scores of single items, one JSON line each, so that two policies can be compared in pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from evenmoe.errors import FileFormatError


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """One item of a task. score: the task's main metric for it, 0 or 1 where that is accuracy.

    group: a part of the task it belongs to (a subject, a question family), or "". answer: what the model said, or
    chose, as text.
    """

    item: str
    score: float
    group: str = ""
    answer: str = ""


def write_items(path: Path, items: Iterable[ItemScore]) -> None:
    """Write in the given order, replacing the file in one step; the same items give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items]
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, path)


def read_items(path: Path) -> list[ItemScore]:
    """Read what `write_items` wrote. Raises FileNotFoundError, FileFormatError naming the line."""
    items = []
    # Not by splitlines, which also splits at characters that an answer may contain, such as U+2028.
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    for number, line in enumerate(filter(None, lines), start=1):
        try:
            items.append(ItemScore(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise FileFormatError(f"{path}, line {number}, is not an item's score: {error}") from error
    return items
