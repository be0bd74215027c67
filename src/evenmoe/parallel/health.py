"""A rank's sign of life: a thread that writes its row several times a second, and reads the others' when one fails."""

from __future__ import annotations

import logging
import threading
import time

from evenmoe.parallel.board import ANSWER_S, Board, Row, State, StoreLostError, Verdict
from evenmoe.parallel.diagnosis import certain_cause, likely_cause

logger = logging.getLogger(__name__)

BEAT_S = 0.25
PATIENCE_S = 2.0
"""How long a diagnosis watches the board: eight beats. It is added to the timeout of a group."""


class Health:
    """Counts one rank's collectives, publishes them off the critical path, and finds out who broke the group.

    `enter`, `leave` and `note` cost a few attribute writes; nothing of them waits for the store.
    """

    def __init__(self, board: Board, rank: int, num_ranks: int, store_rank: int | None) -> None:
        self.rank, self.num_ranks, self._board, self._store_rank = rank, num_ranks, board, store_rank
        self.note = ""
        self._operation = ""
        self._entered = self._finished = self._beat = 0
        self._state: State = "starting"
        self._reason = ""
        self._ended = threading.Event()
        self._speaking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="evenmoe-health", daemon=True)

    def start(self) -> None:
        """Write the first row and go on beating. Raises StoreLostError where the store is not there."""
        self._speak()
        self._thread.start()

    def run(self) -> None:
        """The group is complete: from now on this rank counts as running."""
        self._state = "running"

    def enter(self, operation: str) -> None:
        """A collective begins."""
        self._operation = operation
        self._entered += 1

    def leave(self) -> None:
        """The collective that began is done."""
        self._finished = self._entered

    def stop(self, state: State, reason: str = "") -> None:
        """The last word of this rank, written at once; no beats follow. Only the first call counts."""
        if self._ended.is_set():
            return
        self._state, self._reason = state, reason
        self._ended.set()
        try:
            self._speak()
        except StoreLostError as error:
            logger.debug("rank %d: %s", self.rank, error)
        if self._thread.is_alive():
            self._thread.join(BEAT_S)

    def row(self) -> Row:
        """This rank's row as it is now."""
        return Row(
            rank=self.rank,
            beat=self._beat,
            entered=self._entered,
            finished=self._finished,
            operation=self._operation,
            note=self.note,
            state=self._state,
            reason=self._reason,
        )

    def diagnose(self, what: str) -> Verdict:
        """Who is to blame that the collective under way failed with `what`; all ranks settle on one verdict.

        Watches the board for at most PATIENCE_S, less where a cause is certain.
        """
        try:
            found = self._watch() or Verdict(
                None, f"the exchange failed though all ranks are alive: {what} ({self.row().place})"
            )
            return self._board.settle(found)
        except StoreLostError as error:
            return self.store_lost(error, what)

    @property
    def serves_store(self) -> bool:
        """True where the store ends with this process."""
        return self._store_rank == self.rank

    def store_lost(self, error: StoreLostError, what: str) -> Verdict:
        """The verdict where the store itself is gone: on the rank that serves it, or on none if a launcher does."""
        if self._store_rank is None:
            return Verdict(
                None, f"the launcher, which serves the ranks' store, is gone: {error}; first sign: {what}"
            )
        return Verdict(
            self._store_rank,
            f"died or is stopped: it serves the ranks' store, and {error}; first sign: {what}",
        )

    def wait_for_all(self, timeout_s: float) -> Verdict | None:
        """Wait until every rank has written a row; the verdict on who is missing, or None when all are there."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self._board.rows()
            if all(row is not None for row in rows):
                return None
            found = self._board.verdict() or certain_cause(rows, self._board.exits(), entered=1)
            if found is None and time.monotonic() >= deadline:
                missing = [rank for rank, row in enumerate(rows) if row is None]
                others = f" (neither did {_names(missing[1:])})" if missing[1:] else ""
                found = Verdict(missing[0], f"did not join the group within {timeout_s:g} s{others}")
            if found is not None:
                return self._board.settle(found)
            time.sleep(0.02)

    def wait_until_ended(self, timeout_s: float) -> None:
        """Wait a little for the others to end too, so that none loses a connection that it still reads from."""
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline:
                rows = self._board.rows()
                if all(row is not None and row.state not in ("starting", "running") for row in rows):
                    return
                time.sleep(0.01)
        except StoreLostError:
            return

    def _watch(self) -> Verdict | None:
        """Look at the board until something is certain or patience ends."""
        start, first = time.monotonic(), self._board.rows()
        while True:
            rows, exits = self._board.rows(), self._board.exits()
            found = self._board.verdict() or certain_cause(rows, exits, self._entered)
            if found is not None:
                return found
            if time.monotonic() - start >= PATIENCE_S:
                return likely_cause(first, rows, self.row(), time.time())
            time.sleep(BEAT_S / 2)

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._speak()
            except StoreLostError as error:
                logger.debug("rank %d: %s", self.rank, error)

    def _speak(self) -> None:
        if not self._speaking.acquire(timeout=ANSWER_S):
            raise StoreLostError("the store did not take the last row")
        try:
            self._beat += 1
            self._board.publish(self.row())
        finally:
            self._speaking.release()


def _names(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(str(rank) for rank in ranks)
