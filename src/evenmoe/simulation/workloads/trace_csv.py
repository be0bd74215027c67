"""Traces as CSV: Azure's, and a general one of our own. Formats: docs/workloads.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from datetime import datetime

from evenmoe.simulation.workloads.text_lines import Place
from evenmoe.simulation.workloads.trace_columns import Columns, checked_tokens

OWN_COLUMNS = ("arrived_s", "prompt_tokens", "output_tokens")
AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def csv_columns(text: str, place: Place) -> Columns:
    """The columns of a CSV trace, told by its header. Raises FileFormatError."""
    rows = _rows(text, place)
    header = [name.strip() for name in next(rows)]
    if all(header.count(name) == 1 for name in AZURE_COLUMNS):
        return _filled(rows, header, place, AZURE_COLUMNS, _azure_clock())
    _check_own_header(header, place)
    columns = _filled(rows, header, place, OWN_COLUMNS, _seconds)
    if not text.endswith(("\n", "\r")):
        last = text.rsplit("\n", 1)[-1]
        place.refuse("last line", last, "a line that ends; this one has no line end, and may be cut off")
    return columns


def _check_own_header(header: list[str], place: Place) -> None:
    shown = ",".join(header)
    for name in OWN_COLUMNS:
        if name not in header:
            place.refuse("header", shown, f"a column {name} (or those of Azure, {','.join(AZURE_COLUMNS)})")
    for name in header:
        if name not in (*OWN_COLUMNS, "topic") or header.count(name) > 1:
            place.refuse("header", shown, f"{', '.join(OWN_COLUMNS)} and perhaps topic, each once")


def _rows(text: str, place: Place) -> Iterator[list[str]]:
    """The rows that are not blank; `place` follows."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            place.line = reader.line_num
            if row:
                yield row
    except csv.Error as error:
        place.line = reader.line_num
        place.refuse("row", text.split("\n")[place.line - 1], f"comma-separated values ({error})")


def _filled(
    rows: Iterator[list[str]],
    header: list[str],
    place: Place,
    names: tuple[str, str, str],
    seconds_of: Callable[[str, str, Place], float],
) -> Columns:
    columns = Columns()
    time, prompt, output = (header.index(name) for name in names)
    topic = header.index("topic") if "topic" in header and names is OWN_COLUMNS else None
    for row in rows:
        if len(row) != len(header):
            place.refuse("row", ",".join(row), f"{len(header)} values, {','.join(header)}; it has {len(row)}")
        columns.add_time(names[0], seconds_of(names[0], row[time], place), row[time], place)
        columns.prompt_tokens.append(_tokens(names[1], row[prompt], place))
        columns.output_tokens.append(_tokens(names[2], row[output], place))
        if topic is not None:
            columns.topics.append(row[topic].strip() or place.refuse("topic", row[topic], "a name"))
    return columns


def _tokens(name: str, written: str, place: Place) -> int:
    digits = written.strip()
    is_integer = digits.isascii() and digits.isdigit() and len(digits) < 20
    return checked_tokens(name, int(digits) if is_integer else None, written, place)


def _seconds(name: str, written: str, place: Place) -> float:
    try:
        if "_" not in written:
            return float(written)
    except ValueError:
        pass
    place.refuse(name, written, "a number of seconds")


def _azure_clock() -> Callable[[str, str, Place], float]:
    """A function from a TIMESTAMP to seconds since the first one; the seventh decimal is left out."""
    first: list[datetime] = []

    def seconds_of(name: str, written: str, place: Place) -> float:
        try:
            moment = datetime.fromisoformat(written.strip())
            first[:] = first or [moment]
            since_s = (moment - first[0]).total_seconds()
        except (ValueError, TypeError):  # TypeError: only one of the two has a time zone
            place.refuse(name, written, "a moment as 2023-11-16 18:17:03.9799600")
        if since_s < 0:
            place.refuse(name, written, f"no time before that of the first request, {first[0]}: sort them")
        return since_s

    return seconds_of
