"""Traces as JSONL: Mooncake's. Format: docs/workloads.md."""

from __future__ import annotations

from typing import Any

from evenmoe.simulation.workloads.text_lines import Place, json_object
from evenmoe.simulation.workloads.trace_columns import MOST_SECONDS, Columns, checked_tokens

FIELDS = ("timestamp", "input_length", "output_length")


def jsonl_columns(text: str, place: Place) -> Columns:
    """The columns of a JSONL trace. Raises FileFormatError."""
    columns = Columns()
    block_ids: list[list[int]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place.line = number
        body = _object(line, place)
        columns.add_time("timestamp", _seconds(body["timestamp"], place), body["timestamp"], place)
        columns.prompt_tokens.append(_tokens("input_length", body, place))
        columns.output_tokens.append(_tokens("output_length", body, place))
        block_ids.append(_block_ids(body, block_ids[0] if block_ids else None, place))
    columns.sessions = _sessions(block_ids)
    return columns


def _object(line: str, place: Place) -> dict[str, Any]:
    body = json_object(line, place)
    for name in FIELDS:
        if name not in body:
            place.refuse("fields", ",".join(body), f"a field {name}")
    return body


def _seconds(milliseconds: object, place: Place) -> float:
    is_number = isinstance(milliseconds, int | float) and not isinstance(milliseconds, bool)
    if not is_number or not 0 <= milliseconds <= 1000 * MOST_SECONDS:  # type: ignore[operator]
        place.refuse("timestamp", milliseconds, f"milliseconds from 0 to {1000 * MOST_SECONDS:g}")
    return milliseconds / 1000  # type: ignore[operator]


def _tokens(name: str, body: dict[str, Any], place: Place) -> int:
    value = body[name]
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return checked_tokens(name, value if is_integer else None, value, place)


def _block_ids(body: dict[str, Any], first: list[int] | None, place: Place) -> list[int]:
    """The request's `hash_ids`, or []; `first` is that of the first request, which all do alike."""
    has_ids = "hash_ids" in body
    ids = body.get("hash_ids")
    is_list = isinstance(ids, list) and bool(ids) and all(type(one) is int for one in ids)
    if is_list != has_ids or (first is not None and has_ids != bool(first)):
        place.refuse("hash_ids", ids, "a list of integers, at least one, in every line or in none")
    return ids or []


def _sessions(block_ids: list[list[int]]) -> list[int]:
    """A number per session: requests whose prompts agree one block further than those of all requests do."""
    if not block_ids or not block_ids[0]:
        return []
    first, shared = block_ids[0], 0
    while all(len(ids) > shared + 1 and ids[shared] == first[shared] for ids in block_ids):
        shared += 1
    numbers: dict[int, int] = {}
    return [numbers.setdefault(ids[shared], len(numbers)) for ids in block_ids]
