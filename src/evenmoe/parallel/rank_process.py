"""What runs in each process that `launch` starts: join, call the worker, report, and never outlive the launcher."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import torch

from evenmoe.parallel.joining import Place, join
from evenmoe.parallel.messages import Answer, Failure, LogLine, Progress, Task, pack_result

LAUNCH_PREFIX = "evenmoe/launch"
_PR_SET_PDEATHSIG = 1


class Line:
    """The pipe to the launcher, safe for several threads; what cannot be sent any more is dropped."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: object) -> None:
        """Send one message. The launcher's end is gone only when the launcher is, which ends this process too."""
        data = pickle.dumps(message)
        with self._lock:
            self._connection.send_bytes(data)

    def end_with_launcher(self) -> None:
        """Watch the pipe in a thread: when the launcher is gone, however it went, this process ends at once."""
        threading.Thread(target=self._watch, name="evenmoe-launcher", daemon=True).start()

    def _watch(self) -> None:
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)


class _Forward(logging.Handler):
    """Sends the package's log records to the launcher."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._line.send(LogLine(record.name, record.levelno, record.getMessage()))
        except Exception:
            self.handleError(record)


def run_rank(task: Task, connection: Connection) -> None:
    """The process of one rank, from its start to its report."""
    _die_with_launcher()
    line = Line(connection)
    line.end_with_launcher()
    _set_signals()
    _set_logging(line, task.log_level)
    torch.set_num_threads(task.threads)
    try:
        line.send(Answer(pack_result(_work(task, line))))
    except BaseException as error:  # sys.exit and the launcher's own stop too: all must be reported
        line.send(Failure.of(error))
        sys.stdout.flush()
        sys.exit(1)


def _work(task: Task, line: Line) -> Any:
    """Join the group and call the worker."""
    place = Place(
        rank=task.rank,
        num_ranks=task.num_ranks,
        local_rank=task.rank,
        host="127.0.0.1",
        port=task.port,
        is_store_hosted=True,
        prefix=LAUNCH_PREFIX,
    )

    def progress(description: str, done: int, total: int) -> None:
        if task.rank == 0:
            line.send(Progress(description, done, total))

    worker, args = pickle.loads(task.work)
    with join(place, backend=task.backend, timeout_s=task.timeout_s) as group:
        return worker(group, progress, *args)


def _die_with_launcher() -> None:
    """Have Linux kill this process with its launcher: one that is stopped (SIGSTOP) cannot watch the pipe."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _set_signals() -> None:
    """Ctrl-C is the launcher's business; its SIGTERM unwinds the worker, so that `finally` blocks run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


def _set_logging(line: Line, level: int) -> None:
    logger = logging.getLogger("evenmoe")
    logger.addHandler(_Forward(line))
    logger.setLevel(level)
    logger.propagate = False
