"""Text files as lines, plain or `.gz`, with errors that name the line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from evenmoe.errors import FileFormatError


@dataclass
class Place:
    """Where in which file we are."""

    path: Path
    line: int = 1

    def refuse(self, name: str, value: object, allowed: str) -> NoReturn:
        """Raise FileFormatError that names file, line, field, value and what is allowed."""
        shown = repr(value)
        shown = shown if len(shown) <= 100 else shown[:97] + "..."
        raise FileFormatError(f"{self.path}, line {self.line}: {name} = {shown} is not allowed: {allowed}")


def check_suffix(path: Path, suffixes: Sequence[str], what: str) -> str:
    """The suffix of `path` without `.gz`. Raises FileFormatError unless it is one of `suffixes`."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in suffixes:
        allowed = " or ".join(suffixes)
        raise FileFormatError(f"{path} is not {what}: its name must end in {allowed} (or that and .gz)")
    return suffix


def read_text(path: Path) -> str:
    """The whole text of a file, unpacked if its name ends in `.gz`; a byte order mark is left out.

    Raises FileNotFoundError; FileFormatError for what is not gzip, not UTF-8 (names the line), or empty.
    """
    body = path.read_bytes()
    if path.suffix == ".gz":
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(f"{path} cannot be unpacked: {error}") from error
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise FileFormatError(
            f"{path}, line {line}: byte {body[error.start]:#04x} is not allowed: UTF-8 text ({error.reason})"
        ) from error
    if not text.strip():
        raise FileFormatError(f"{path} is empty")
    return text


def json_object(line: str, place: Place) -> dict[str, Any]:
    """The JSON object of a line. Raises FileFormatError for anything else."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        place.refuse("JSON", line.strip(), f"one whole object ({error})")
    if not isinstance(body, dict):
        place.refuse("JSON", body, "an object")
    return body
