"""Watch over the processes of a launch: take their reports, find the first culprit, stop whoever is left."""

from __future__ import annotations

import logging
import math
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from evenmoe.errors import EvenMoEError, RankError
from evenmoe.parallel.board import Board, StoreLostError
from evenmoe.parallel.messages import Answer, Failure, LogLine, Progress, unpack

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]

SETTLE_S = 3.0
"""After the first fault: how long the other ranks may take to find it out and stop by themselves. After the last
result: how long the processes may take to end."""

TERMINATE_S = 2.0
"""After SIGTERM: how long a process may unwind before SIGKILL."""


@dataclass
class Rank:
    """One process, and what it has reported."""

    rank: int
    process: SpawnProcess
    connection: Connection
    answer: Answer | None = None
    failure: Failure | None = None
    has_ended: bool = False
    was_stopped: bool = False

    @property
    def handles(self) -> tuple[Connection, int]:
        """What becomes readable when the process says something, and when it ends."""
        return self.connection, self.process.sentinel

    @property
    def is_alive(self) -> bool:
        """True between the start of the process and its end."""
        return self.process.pid is not None and self.process.is_alive()

    @property
    def exit_text(self) -> str:
        """How the process ended, for people."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with code {code} and no result"


@dataclass
class Supervisor:
    """The processes of one launch, from the first start to the last end."""

    board: Board
    on_progress: OnProgress | None
    ranks: list[Rank] = field(default_factory=list)
    faults: list[Rank] = field(default_factory=list)
    """The ranks that went wrong, in the order in which it was seen."""

    def add(self, rank: int, process: SpawnProcess, connection: Connection) -> None:
        """Take charge of a process."""
        self.ranks.append(Rank(rank, process, connection))

    def watch(self) -> list[Any]:
        """Wait for all results. After a fault the others have SETTLE_S to stop by themselves; then it raises."""
        deadline = math.inf
        while not all(rank.has_ended for rank in self.ranks) and time.monotonic() < deadline:
            if deadline == math.inf and (self.faults or all(rank.answer for rank in self.ranks)):
                deadline = time.monotonic() + SETTLE_S
            self._wait(None if deadline == math.inf else max(deadline - time.monotonic(), 0.0))
        if self.faults:
            self.stop_all()
            raise self._error()
        return [unpack(rank.answer.result) for rank in self.ranks if rank.answer is not None]

    def stop_all(self) -> None:
        """Stop every process that is left, first gently, and reap it. Whatever interrupts this, SIGKILL follows."""
        try:
            left = [rank for rank in self.ranks if rank.is_alive]
            for rank in left:
                rank.was_stopped = True
                rank.process.terminate()
            deadline = time.monotonic() + TERMINATE_S
            while left and time.monotonic() < deadline:
                self._wait(max(deadline - time.monotonic(), 0.0), left)
                left = [rank for rank in left if rank.is_alive]
        finally:
            for rank in self.ranks:
                if rank.is_alive:
                    logger.info("rank %d does not stop; it is killed", rank.rank)
                    rank.process.kill()
                if rank.process.pid is not None:
                    rank.process.join()
                rank.connection.close()

    def _wait(self, timeout_s: float | None, among: list[Rank] | None = None) -> None:
        """Wait for something to happen to a process, and take it in."""
        watched = [rank for rank in (among or self.ranks) if not rank.has_ended]
        ready = wait([handle for rank in watched for handle in rank.handles], timeout_s)
        for rank in watched:
            if not any(handle in ready for handle in rank.handles):
                continue
            is_over = not rank.is_alive  # asked first: what it sent before it ended can then be read
            self._read(rank)
            if is_over:
                self._end(rank)

    def _read(self, rank: Rank) -> None:
        """Take in all that the process has sent."""
        try:
            while rank.connection.poll():
                self._take(rank, pickle.loads(rank.connection.recv_bytes()))
        except (EOFError, OSError):
            return

    def _take(self, rank: Rank, message: object) -> None:
        if isinstance(message, Progress) and self.on_progress is not None:
            self.on_progress(message.description, message.done, message.total)
        elif isinstance(message, LogLine):
            logging.getLogger(message.name).log(message.level, "rank %d: %s", rank.rank, message.text)
        elif isinstance(message, Answer):
            rank.answer = message
        elif isinstance(message, Failure) and not rank.was_stopped:
            rank.failure = message
            self._fault(rank, message.text)

    def _end(self, rank: Rank) -> None:
        """The process has ended: if without a report, that is a fault, and the other ranks are told."""
        rank.has_ended = True
        if rank.answer is None and rank.failure is None and not rank.was_stopped:
            self._fault(rank, rank.exit_text)
            try:
                self.board.post_exit(rank.rank, rank.exit_text)
            except StoreLostError as error:
                logger.warning("the other ranks could not be told of rank %d: %s", rank.rank, error)

    def _fault(self, rank: Rank, text: str) -> None:
        logger.info("rank %d: %s", rank.rank, text)
        self.faults.append(rank)

    def _error(self) -> EvenMoEError:
        """The error of the launch: that of the first rank with an error of its own, else what the ranks blame."""
        own = [rank for rank in self.faults if rank.failure is None or rank.failure.blamed is None]
        error = _own_error(own[0]) if own else _blamed(self.faults[0])
        for rank in self.faults:
            if rank.failure is not None and rank.failure.blamed is not None:
                error.add_note(f"rank {rank.rank} stopped: {rank.failure.text}")
        for rank in self.ranks:
            if rank.was_stopped:
                error.add_note(f"rank {rank.rank} was stopped by the launcher")
        return error


def _own_error(rank: Rank) -> EvenMoEError:
    if rank.failure is None:
        return RankError(rank.rank, f"died: {rank.exit_text}")
    error = rank.failure.rebuild() or RankError(rank.rank, f"failed: {rank.failure.text}")
    error.add_note(f"rank {rank.rank}:\n{rank.failure.trace}")
    return error


def _blamed(rank: Rank) -> EvenMoEError:
    if rank.failure is None or rank.failure.blamed is None:
        raise AssertionError("a rank without an error of its own blames another")
    return RankError(*rank.failure.blamed)
