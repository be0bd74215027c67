"""Start the ranks of a group on this machine, watch over them, and leave no process behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.parallel.board import Board
from evenmoe.parallel.joining import check_backend, check_timeout
from evenmoe.parallel.messages import Task
from evenmoe.parallel.rank_process import LAUNCH_PREFIX, run_rank
from evenmoe.parallel.stores import first_line, section, serve_store
from evenmoe.parallel.supervision import OnProgress, Supervisor

logger = logging.getLogger(__name__)


def launch(
    worker: Callable[..., Any],
    *,
    num_ranks: int,
    args: Sequence[Any] = (),
    timeout_s: float = 60.0,
    threads: int = 1,
    on_progress: OnProgress | None = None,
    port: int | None = None,
    backend: str | None = None,
) -> list[Any]:
    """Run `worker(group, progress, *args)` in `num_ranks` new processes; their results, by rank.

    `worker` is a function of a module; it, `args` and the results are pickled. `progress(description, done, total)`
    of rank 0 reaches `on_progress`; the other ranks may call it too, to no effect. Each process gets `threads` threads.
    `timeout_s` seconds is how long one collective may take. `port` is the store's; None takes a free one.

    Raises ConfigError for a setting that cannot act and for a port in use; the worker's own error if it is one of
    evenmoe's; RankError naming the first rank that died, hangs or failed, with its traceback as a note. After the
    first fault the other ranks have supervision.SETTLE_S seconds to stop by themselves, then TERMINATE_S after SIGTERM.
    However it ends, also by Ctrl-C, SIGTERM or the death of this process, no process is left.
    """
    _check(num_ranks, threads, port)
    check_timeout(timeout_s)
    chosen = check_backend(backend, local_rank=num_ranks - 1)
    work = _pack_work(worker, args)
    store = serve_store("127.0.0.1", port or 0, "port", timeout_s)
    board = Board(section(store, f"{LAUNCH_PREFIX}/board"), num_ranks)
    supervisor = Supervisor(board, on_progress)
    with _stopped_by_sigterm():
        try:
            with _environment(threads):
                for rank in range(num_ranks):
                    task = Task(
                        rank=rank,
                        num_ranks=num_ranks,
                        port=store.port,
                        timeout_s=timeout_s,
                        threads=threads,
                        backend=chosen,
                        work=work,
                        log_level=logging.getLogger("evenmoe").getEffectiveLevel(),
                    )
                    _start(task, supervisor)
            logger.info("%d ranks started on port %d, %d threads each", num_ranks, store.port, threads)
            return supervisor.watch()
        finally:
            supervisor.stop_all()


def _start(task: Task, supervisor: Supervisor) -> None:
    """Start one rank's process; it inherits SIGINT blocked, so that an early Ctrl-C cannot hit it while it imports."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=run_rank, args=(task, there), name=f"evenmoe-rank-{task.rank}", daemon=True
    )
    supervisor.add(task.rank, process, here)  # before it starts: an interrupt in between must find it
    resource_tracker.ensure_running()  # started by start() it would unblock the signal again
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        there.close()


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """The variables that the new processes must find when they import torch; ours are restored."""
    wanted = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if "TORCH_CPP_LOG_LEVEL" not in os.environ:
        wanted["TORCH_CPP_LOG_LEVEL"] = (
            "ERROR"  # else a rank that dies makes the others print C++ stack traces
        )
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback and "GLOO_SOCKET_IFNAME" not in os.environ:
        wanted["GLOO_SOCKET_IFNAME"] = loopback[0]  # one machine: no need to resolve its host name
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Turn a SIGTERM that nobody handles into SystemExit, so that the processes are stopped on the way out."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _check(num_ranks: int, threads: int, port: int | None) -> None:
    for field, value in (("num_ranks", num_ranks), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(field, value, "a whole number from 1")
    if port is not None and not 1 <= port <= 65535:
        raise ConfigError("port", port, "from 1 to 65535, or None for any free one")


def _pack_work(worker: Callable[..., Any], args: Sequence[Any]) -> bytes:
    main = sys.modules.get("__main__")
    if (
        getattr(worker, "__module__", None) == "__main__"
        and not Path(getattr(main, "__file__", "")).is_file()
    ):
        raise ConfigError(
            "worker", worker, "a function of a module or a script's file: new processes import it"
        )
    try:
        pickle.dumps(worker)
    except Exception as error:
        raise ConfigError(
            "worker",
            worker,
            f"a function at the top of a module, so that it can be pickled ({first_line(error)})",
        ) from error
    try:
        return pickle.dumps((worker, tuple(args)))
    except Exception as error:
        raise ConfigError("args", tuple(args), f"values that can be pickled ({first_line(error)})") from error
