"""Placements as JSON files. Schema: docs/placement.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from evenmoe.errors import EvenMoEError, FileFormatError
from evenmoe.placement.placement import Placement

FORMAT = "evenmoe.placement"
VERSION = 1
_KEYS = ("format", "version", "method", "num_devices", "layers", "device_of_expert")


def write_placement(placement: Placement, path: str | Path) -> Path:
    """Write `placement` as JSON to `path`, replacing the file in one step. Returns the path.

    The same placement gives the same bytes: one line per layer.
    """
    path = Path(path)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "method": placement.method,
        "num_devices": placement.num_devices,
        "layers": list(placement.layers),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body = ",\n  ".join(map(json.dumps, placement.rows))
    lines.append(f'"device_of_expert": [\n  {body}\n ]')
    partial = path.with_name(path.name + ".partial")
    partial.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read_placement(path: str | Path) -> Placement:
    """Read a placement file. Raises FileNotFoundError, and FileFormatError for anything that is wrong in it."""
    path = Path(path)
    try:
        return _from_body(json.loads(path.read_text(encoding="utf-8")))
    except (EvenMoEError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not a placement file: {error}") from error


def _from_body(body: Any) -> Placement:
    if not isinstance(body, dict):
        raise FileFormatError(f"it holds a {type(body).__name__}, not an object")
    if body.get("format") != FORMAT or body.get("version") != VERSION:
        raise FileFormatError(
            f"format {body.get('format')!r} version {body.get('version')!r}; this reads {FORMAT!r} version {VERSION}"
        )
    missing, unknown = [key for key in _KEYS if key not in body], sorted(set(body) - set(_KEYS))
    if missing or unknown:
        raise FileFormatError(
            f"it lacks {missing}" if missing else f"it has keys unknown to this version: {unknown}"
        )
    if not isinstance(body["method"], str):
        raise FileFormatError(f"method is {body['method']!r}, not a text")
    names, rows = body["layers"], body["device_of_expert"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileFormatError(f"layers is {names!r}, not a list of names")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise FileFormatError("device_of_expert is not a list with one list per layer")
    return Placement.of(rows, body["num_devices"], layers=names, method=body["method"])
