"""What a rank's process and its launcher say to each other over their pipe."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

from evenmoe.errors import EvenMoEError
from evenmoe.parallel.group import caused_by_rank
from evenmoe.parallel.stores import first_line


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is started for. The worker and its arguments are pickled apart, so that errors name them."""

    rank: int
    num_ranks: int
    port: int
    timeout_s: float
    threads: int
    backend: str
    work: bytes
    log_level: int


@dataclass(frozen=True)
class Progress:
    """Rank 0's progress."""

    description: str
    done: int
    total: int


@dataclass(frozen=True)
class LogLine:
    """A log record of the package in a rank's process."""

    name: str
    level: int
    text: str


@dataclass(frozen=True)
class Answer:
    """The worker's result, pickled: plain bytes, so that no tensor is handed over as shared memory."""

    result: bytes


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The worker's error. `blamed` is set where it stopped because of another rank, with what is known of that."""

    text: str
    trace: str
    blamed: tuple[int | None, str] | None
    original: bytes | None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe `error`; one of evenmoe's own goes along, so that the launcher can raise it again."""
        cause = caused_by_rank(error)
        return cls(
            text=f"{type(error).__name__}: {first_line(error)}",
            trace="".join(traceback.format_exception(error)).rstrip(),
            blamed=None if cause is None else (cause.rank, cause.reason),
            original=_pack(error) if isinstance(error, EvenMoEError) else None,
        )

    def rebuild(self) -> EvenMoEError | None:
        """The original error of evenmoe, or None where it was another kind or could not travel."""
        if self.original is None:
            return None
        kind, args, fields = pickle.loads(self.original)
        error: EvenMoEError = kind.__new__(kind, *args)
        error.__dict__.update(fields)
        return error


def _pack(error: EvenMoEError) -> bytes | None:
    """An error as bytes, without calling its class again: its arguments are not those of its constructor."""
    fields = {name: value for name, value in vars(error).items() if name != "__notes__"}
    try:
        return pickle.dumps((type(error), error.args, fields))
    except Exception:
        return None


def pack_result(result: object) -> bytes:
    """A worker's result as bytes. Raises TypeError for one that cannot be pickled."""
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise TypeError(f"the worker's result cannot be pickled: {first_line(error)}") from error


def unpack(data: bytes) -> Any:
    """What `pack_result` packed."""
    return pickle.loads(data)
