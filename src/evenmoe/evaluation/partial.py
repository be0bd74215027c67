"""Rows of a sweep that is not complete yet: kept on disk so that an interrupted sweep can go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evenmoe.evaluation.results import Row

log = logging.getLogger(__name__)


class PartialRows:
    """A file of finished rows under a header; rows of another configuration are set aside, not mixed in.

    One JSON line per row after the header's; a last line cut short by a crash is measured again.
    """

    def __init__(self, out: Path, header: dict[str, Any]) -> None:
        self._path = out / "rows.partial.jsonl"
        self._rows: dict[str, Row] = {}
        if self._path.exists() and not self._load(header):
            log.warning("%s belongs to another configuration; starting anew", self._path)
        lines = [json.dumps(header), *(row.model_dump_json() for row in self._rows.values())]
        self._path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Row | None:
        """The finished row of that key, or None."""
        return self._rows.get(key)

    def add(self, key: str, row: Row) -> None:
        """Keep a finished row, on disk at once."""
        self._rows[key] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")

    def clear(self) -> None:
        """Remove the file: the sweep is complete."""
        self._path.unlink(missing_ok=True)

    def _load(self, header: dict[str, Any]) -> bool:
        lines = self._path.read_text(encoding="utf-8").splitlines()
        try:
            if not lines or json.loads(lines[0]) != json.loads(json.dumps(header)):
                return False
        except ValueError:
            return False
        for line in lines[1:]:
            try:
                row = Row.model_validate_json(line)
            except ValidationError:
                break
            self._rows[row.key] = row
        return True
