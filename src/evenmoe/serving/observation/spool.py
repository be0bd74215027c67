"""Spool: the private folder through which an engine's processes tell each other their snapshots.

An engine's scheduler, workers and HTTP server are processes of one machine and one user. Each writes its own file
whole, in one step, and reads those of the others.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "EVENMOE_SPOOL"
"""The folder's path, which processes inherit."""


@dataclass(frozen=True)
class Spool:
    """A folder of snapshots: `loads.safetensors` of the worker, `scheduling.json` of the scheduler."""

    folder: Path

    @staticmethod
    def inherited() -> Spool | None:
        """The spool of the process that started this one, or its own; None where there is none."""
        path = os.environ.get(ENVIRONMENT)
        return None if path is None else Spool(Path(path))

    @staticmethod
    def ensured() -> Spool:
        """The inherited spool, else a new one, which goes with this process and is inherited by those it starts."""
        spool = Spool.inherited()
        if spool is not None:
            return spool
        folder = Path(tempfile.mkdtemp(prefix="evenmoe-"))  # mode 0700
        os.environ[ENVIRONMENT] = str(folder)
        owner = os.getpid()
        atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
        return Spool(folder)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in one step."""
        partial = self.folder / f"{name}.{os.getpid()}.partial"
        partial.write_bytes(data)
        os.replace(partial, self.folder / name)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it is not written yet."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
