"""WatchedFile: a file that is read again only when another stands in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Content = TypeVar("Content")


class WatchedFile(Generic[Content]):
    """What was read of a file that others replace whole, as a spool's are."""

    def __init__(self, path: Path, read: Callable[[], Content | None]) -> None:
        self._path, self._read = path, read
        self._seen: tuple[int, int, int] | None = None
        self._content: Content | None = None

    def content(self) -> Content | None:
        """The content as of now; None where there is no file, or none that can be read."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen = self._content = None
            return None
        identity = (found.st_ino, found.st_mtime_ns, found.st_size)
        if identity != self._seen:
            self._content = self._read()
            self._seen = identity
        return self._content
