"""What the ranks tell each other about themselves, in the store that they met in: one row per rank."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from evenmoe.errors import EvenMoEError
from evenmoe.parallel.stores import first_line

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Result = TypeVar("Result")

ANSWER_S = 3.0
"""How long an answer of the store may take before the store counts as lost, once the group is complete."""

State = Literal["starting", "running", "left", "failed", "stopped"]
"""left: closed its group normally. failed: an error of its own. stopped: it stopped because of another rank."""


class StoreLostError(EvenMoEError):
    """The store does not answer."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rank's own words: how often it has spoken, which collective it is at, and how it is."""

    rank: int
    beat: int = 0
    entered: int = 0
    finished: int = 0
    operation: str = ""
    note: str = ""
    state: State = "starting"
    reason: str = ""
    written_s: float = 0.0

    @property
    def place(self) -> str:
        """Where the rank is, for people: its note if it left one, and its collective."""
        side = "in" if self.entered > self.finished else "after"
        collective = f"{side} {self.operation}, collective number {self.entered}" if self.operation else ""
        return ", ".join(filter(None, (self.note, collective))) or "the start"


@dataclass(frozen=True)
class Verdict:
    """Which rank is to blame (None: cannot be told), and what is known of it."""

    rank: int | None
    reason: str


class Board:
    """The rows of `num_ranks` ranks, what their launcher saw of them, and the one verdict that all adopt.

    Every method raises StoreLostError where the store is gone or does not answer within `answer_s` seconds. `served` is
    the store that this process serves, if any: it lives as long as the board, not only as long as the collectives.
    """

    def __init__(
        self, store: Store, num_ranks: int, served: Store | None = None, *, answer_s: float = ANSWER_S
    ) -> None:
        self._store, self._num_ranks, self._served = store, num_ranks, served
        self.answer_s = answer_s
        self._is_lost = False

    def publish(self, row: Row) -> None:
        """Replace this rank's row."""
        text = json.dumps(asdict(row) | {"written_s": time.time()})
        self._set(f"row/{row.rank}", text)

    def rows(self) -> list[Row | None]:
        """The rows by rank; None for a rank that has not written yet."""
        texts = self._read([f"row/{rank}" for rank in range(self._num_ranks)])
        return [None if text is None else Row(**json.loads(text)) for text in texts]

    def post_exit(self, rank: int, how: str) -> None:
        """The launcher's word: the process of `rank` has ended, and how."""
        self._set(f"exit/{rank}", how)

    def exits(self) -> list[str | None]:
        """By rank, how its process ended, where a launcher has said so."""
        return self._read([f"exit/{rank}" for rank in range(self._num_ranks)])

    def verdict(self) -> Verdict | None:
        """The verdict, if a rank has reached one."""
        (text,) = self._read(["verdict"])
        return None if text is None else Verdict(**json.loads(text))

    def settle(self, verdict: Verdict) -> Verdict:
        """Publish a verdict and return the one that holds: the first, so that all ranks name the same."""
        text = json.dumps(asdict(verdict))
        held: bytes = self._ask(lambda: self._store.compare_set("verdict", "", text))
        return Verdict(**json.loads(held))

    def _read(self, keys: list[str]) -> list[str | None]:
        """The values of `keys` without waiting for those that do not exist."""

        def read() -> list[str | None]:
            present = [self._store.check([key]) for key in keys]
            found = iter(
                self._store.multi_get([key for key, is_there in zip(keys, present, strict=True) if is_there])
            )
            return [next(found).decode() if is_there else None for is_there in present]

        return self._ask(read)

    def _set(self, key: str, value: str) -> None:
        """Write without waiting for an answer."""
        if self._is_lost:
            raise StoreLostError("the store did not answer before")
        try:
            self._store.set(key, value)
        except RuntimeError as error:  # torch's store errors are RuntimeErrors
            raise StoreLostError(f"the store does not answer: {first_line(error)}") from error

    def _ask(self, action: Callable[[], Result]) -> Result:
        """Wait for an answer, in a thread: torch itself would wait for ever where the store's process is stopped."""
        if self._is_lost:
            raise StoreLostError("the store did not answer before")
        answers: queue.SimpleQueue[Result | RuntimeError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(action())
            except RuntimeError as error:
                answers.put(error)

        threading.Thread(target=ask, name="evenmoe-board", daemon=True).start()
        try:
            answer = answers.get(timeout=self.answer_s)
        except queue.Empty:
            self._is_lost = True
            raise StoreLostError(f"the store does not answer within {self.answer_s:g} s") from None
        if isinstance(answer, RuntimeError):
            raise StoreLostError(f"the store does not answer: {first_line(answer)}") from answer
        return answer
