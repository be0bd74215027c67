"""Journal: the finished cells of a study on disk, so that an interrupted one goes on. Files are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError

Row = dict[str, Any]
"""One finished cell as plain data."""

FORMAT = "evenmoe.journal"


def config_hash(config: Mapping[str, Any]) -> str:
    """16 hex digits that name a configuration of plain data; the order of its keys does not count."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_whole(path: Path, data: str | bytes) -> Path:
    """Write a file in one step: whoever reads it sees the old one or all of the new one, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which two configurations of plain data differ."""
    plain, other_plain = json.loads(json.dumps(one)), json.loads(json.dumps(other))
    absent = object()
    return [
        key
        for key in sorted({*plain, *other_plain})
        if plain.get(key, absent) != other_plain.get(key, absent)
    ]


class Journal:
    """An append-only file of finished cells under a header that says of which configuration.

    path: the file, one JSON line for each cell after the header's. It is made, with its folder, by the first cell.
    config: plain data on which the cells depend; not the grid, so that a larger grid goes on from a smaller.

    A last line that a crash cut short is dropped, and its cell run again.
    Raises ConfigError where the file belongs to another configuration, FileFormatError where it is not a journal.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path, self._config = path, dict(config)
        self._rows: dict[str, Row] = {}
        self._is_open = False
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def add(self, key: str, row: Row) -> None:
        """Keep a finished cell, on disk at once."""
        if not self._is_open:
            self._start()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"key": key, "row": row}))
            file.flush()
            os.fsync(file.fileno())
        self._rows[key] = row

    def clear(self) -> None:
        """Remove the file: the study is complete."""
        self._path.unlink(missing_ok=True)
        self._is_open = False

    def _start(self) -> None:
        """Write anew what is known, without the line that was cut short: what is appended stands on its own line."""
        header = {"format": FORMAT, "hash": config_hash(self._config), "config": self._config}
        lines = [header, *({"key": key, "row": row} for key, row in self._rows.items())]
        write_whole(self._path, "".join(map(_line, lines)))
        self._is_open = True

    def _read(self) -> None:
        lines = self._path.read_bytes().split(b"\n")[:-1]  # what follows the last line's end was cut short
        if not lines:
            return
        header = self._parsed(lines[0], 1)
        if header.get("format") != FORMAT:
            raise FileFormatError(f"{self._path}, line 1: not a journal of {FORMAT}")
        if header.get("hash") != config_hash(self._config):
            differ = ", ".join(differences(self._config, header.get("config", {})))
            raise ConfigError(
                "out",
                str(self._path.parent),
                f"a folder without unfinished cells of another study (other {differ}); give another, or remove "
                f"{self._path.name}",
            )
        for number, line in enumerate(lines[1:], 2):
            body = self._parsed(line, number)
            if not (isinstance(body.get("key"), str) and isinstance(body.get("row"), dict)):
                raise FileFormatError(f"{self._path}, line {number}: no key and row")
            self._rows[body["key"]] = body["row"]

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            body = json.loads(line)
        except ValueError as error:
            raise FileFormatError(f"{self._path}, line {number}: {error}") from error
        if not isinstance(body, dict):
            raise FileFormatError(f"{self._path}, line {number}: not an object")
        return body


def _line(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"), allow_nan=False) + "\n"
