"""The scheduler's file in the spool: its SchedulingSnapshot, packed and read back."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError

from evenmoe.errors import FileFormatError
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot
from evenmoe.serving.observation.spool import Spool

NAME = "scheduling.json"
FORMAT = "evenmoe.scheduling"
VERSION = 1

logger = logging.getLogger(__name__)
_SNAPSHOT = TypeAdapter(SchedulingSnapshot)


def pack_scheduling_snapshot(snapshot: SchedulingSnapshot) -> bytes:
    """Return a snapshot as JSON."""
    return json.dumps({"format": FORMAT, "version": VERSION, "snapshot": asdict(snapshot)}).encode()


def unpack_scheduling_snapshot(data: bytes) -> SchedulingSnapshot:
    """Return the snapshot that `pack_scheduling_snapshot` packed. Raises FileFormatError for anything else."""
    try:
        body = json.loads(data)
        if not isinstance(body, dict) or (body.get("format"), body.get("version")) != (FORMAT, VERSION):
            raise FileFormatError(f"not {FORMAT!r} version {VERSION}")
        return _SNAPSHOT.validate_python(body.get("snapshot"))
    except (ValueError, ValidationError, RecursionError) as error:
        raise FileFormatError(f"not a packed scheduling snapshot: {error}") from error


def write_scheduling_snapshot(snapshot: SchedulingSnapshot, spool: Spool) -> None:
    """Put a snapshot in the place of the last one. Raises OSError where the folder is gone or full."""
    spool.write(NAME, pack_scheduling_snapshot(snapshot))


def read_scheduling_snapshot(spool: Spool) -> SchedulingSnapshot | None:
    """The latest snapshot; None where there is none yet, or a file that no scheduler wrote (which is logged)."""
    data = spool.read(NAME)
    if data is None:
        return None
    try:
        return unpack_scheduling_snapshot(data)
    except FileFormatError as error:
        logger.warning("%s: %s", spool.folder / NAME, error)
        return None
