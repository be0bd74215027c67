"""The worker's file in the spool: its LoadsSnapshot, packed and read back."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import FileFormatError
from evenmoe.loads import pack_loads, unpack_loads
from evenmoe.serving.observation.loads_snapshot import Floats, LoadsSnapshot
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.observation.watched_file import WatchedFile

NAME = "loads.npz"
_COUNTS = ("num_steps", "num_tokens", "num_requests")

logger = logging.getLogger(__name__)


def pack_loads_snapshot(snapshot: LoadsSnapshot) -> bytes:
    """Return a snapshot as bytes: exact, and the same for the same snapshot."""
    packed = BytesIO()
    np.savez(
        packed,
        loads=np.frombuffer(pack_loads(snapshot.loads, compressed=False), dtype=np.uint8),
        before_LD=snapshot.before_LD,
        after_LD=snapshot.after_LD,
        counts=np.array([getattr(snapshot, name) for name in _COUNTS], dtype=np.int64),
    )
    return packed.getvalue()


def unpack_loads_snapshot(data: bytes) -> LoadsSnapshot:
    """Return the snapshot that `pack_loads_snapshot` packed. Raises FileFormatError for anything else."""
    try:
        with np.load(BytesIO(data), allow_pickle=False) as archive:
            counts = [int(count) for count in archive["counts"]]
            if min(counts) < 0:
                raise FileFormatError(f"counts {counts} are negative")
            return LoadsSnapshot(
                loads=unpack_loads(archive["loads"].tobytes()),
                before_LD=_table(archive["before_LD"]),
                after_LD=_table(archive["after_LD"]),
                **dict(zip(_COUNTS, counts, strict=True)),
            )
    except Exception as error:  # of a damaged file numpy raises what zlib, zipfile or a tokenizer happen to
        raise FileFormatError(f"not a packed loads snapshot: {error}") from error


def write_loads_snapshot(snapshot: LoadsSnapshot, spool: Spool) -> None:
    """Put a snapshot in the place of the last one. Raises OSError where the folder is gone or full."""
    spool.write(NAME, pack_loads_snapshot(snapshot))


def read_loads_snapshot(spool: Spool) -> LoadsSnapshot | None:
    """The latest snapshot; None where there is none yet, or a file that no worker wrote (which is logged)."""
    data = spool.read(NAME)
    if data is None:
        return None
    try:
        return unpack_loads_snapshot(data)
    except FileFormatError as error:
        logger.warning("%s: %s", spool.folder / NAME, error)
        return None


class LatestLoads:
    """The latest loads of a spool, unpacked anew only when the file is another: cheap to ask at every step."""

    def __init__(self, spool: Spool) -> None:
        self._file = WatchedFile(spool.folder / NAME, lambda: read_loads_snapshot(spool))

    def __call__(self) -> LoadsSnapshot | None:
        """The snapshot: the same object as long as the worker has written no other."""
        return self._file.content()


def _table(values: NDArray[Any]) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if not np.isfinite(table).all() or (table < 0).any():
        raise FileFormatError("loads of devices are negative or not finite")
    return table
