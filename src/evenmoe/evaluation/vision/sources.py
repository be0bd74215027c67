"""What a harness's benchmarks are made of: data that may be missing, and rows that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

from evenmoe.errors import EvenMoEError

Row = TypeVar("Row")


class MissingDatasetError(EvenMoEError, FileNotFoundError):
    """The data of a task cannot be had, from here or now."""


class LazyRows(Sequence[Row], Generic[Row]):
    """Rows made when they are asked for, so that not all images of a task are in memory at once."""

    def __init__(self, sources: Sequence[Any], make: Callable[[Any], Row]) -> None:
        self._sources, self._make = sources, make

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._make(source) for source in self._sources[index]]
        return self._make(self._sources[index])
