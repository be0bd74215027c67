"""The worker's file in the spool: its LoadsSnapshot, packed and read back."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import safetensors.numpy as safetensors
from numpy.typing import NDArray

from evenmoe.errors import FileFormatError
from evenmoe.loads import join_loads, split_loads
from evenmoe.serving.observation.loads_snapshot import Floats, LoadsSnapshot
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.observation.watched_file import WatchedFile

NAME = "loads.safetensors"
_HEADER, _LOADS = "header", "loads."
_COUNTS = ("num_steps", "num_tokens", "num_requests")

logger = logging.getLogger(__name__)


def pack_loads_snapshot(snapshot: LoadsSnapshot) -> bytes:
    """Return a snapshot as bytes: exact, and the same for the same snapshot."""
    header, arrays = split_loads(snapshot.loads)
    told = {
        _HEADER: np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        "before_LD": snapshot.before_LD,
        "after_LD": snapshot.after_LD,
        "counts": np.array([getattr(snapshot, name) for name in _COUNTS], dtype=np.int64),
    }
    of_loads = {_LOADS + name: array for name, array in arrays.items()}
    return safetensors.save({name: np.ascontiguousarray(array) for name, array in (told | of_loads).items()})


def unpack_loads_snapshot(data: bytes) -> LoadsSnapshot:
    """Return the snapshot that `pack_loads_snapshot` packed. Raises FileFormatError for anything else.

    An engine's scheduler does this between two steps, which is why it is no archive: that takes ten times as long.
    """
    try:
        arrays = safetensors.load(data)
        counts = [int(count) for count in arrays["counts"]]
        if min(counts) < 0:
            raise FileFormatError(f"counts {counts} are negative")
        of_loads = {
            name.removeprefix(_LOADS): array for name, array in arrays.items() if name.startswith(_LOADS)
        }
        return LoadsSnapshot(
            loads=join_loads(json.loads(arrays[_HEADER].tobytes()), of_loads),
            before_LD=_table(arrays["before_LD"]),
            after_LD=_table(arrays["after_LD"]),
            **dict(zip(_COUNTS, counts, strict=True)),
        )
    except Exception as error:  # of a damaged file safetensors, json and numpy raise what they happen to
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
