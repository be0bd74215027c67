"""Run ranks as cheap processes, forked from one server that has imported torch; the real launch is tested apart."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import time
from dataclasses import dataclass

from evenmoe.errors import EvenMoEError, RankError
from evenmoe.parallel.joining import Place, join
from evenmoe.parallel.stores import serve_store

DEADLINE_S = 120.0
"""So that a defect ends the suite and does not hang it."""
_numbers = itertools.count()
_ports = itertools.count(20000 + os.getpid() * 37 % 10000)


@dataclass(frozen=True)
class Outcome:
    """What became of one rank: "result" with a value, "error" with it as text, or "none": it never said anything."""

    kind: str
    value: object = None
    blamed: int | None = None

    @property
    def text(self) -> str:
        return str(self.value)


def forking():
    """Processes that start with torch and evenmoe.parallel imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["evenmoe.parallel.launching"])
    return context


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any: those begin at 32768.

    A port that was free a moment ago is no such port: each of the many connections of groups that run beside this
    one may be given it before rank 0 serves there.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def run_ranks(worker, num_ranks, *, expected, args=(), timeout_s=1.0, serving="test") -> list[Outcome]:
    """Run `worker(group, *args)` on `num_ranks` ranks until the `expected` ranks have reported; the rest are killed.

    Nobody supervises these ranks: what they know of each other they have from the group alone. `serving`: who has
    the store, the "test" or "rank 0".
    """
    prefix = f"test/{next(_numbers)}"
    if serving == "rank 0":
        port = free_port()
    else:
        store = serve_store("127.0.0.1", 0, "port", 30.0)
        port = store.port
    pipes, processes = [], []
    for rank in range(num_ranks):
        here, there = forking().Pipe(duplex=False)
        place = Place(
            rank=rank,
            num_ranks=num_ranks,
            local_rank=rank,
            host="127.0.0.1",
            port=port,
            is_store_hosted=serving == "test",
            prefix=prefix,
        )
        process = forking().Process(target=_run, args=(worker, place, timeout_s, there, args), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    deadline = time.monotonic() + DEADLINE_S
    outcomes = [Outcome("none")] * num_ranks
    try:
        for rank in expected:
            outcomes[rank] = _receive(pipes[rank], deadline)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return outcomes


def _receive(pipe, deadline: float) -> Outcome:
    try:
        if pipe.poll(max(deadline - time.monotonic(), 0.0)):
            return pipe.recv()
    except EOFError:
        pass
    return Outcome("none")


def _run(worker, place: Place, timeout_s: float, pipe, args) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        with join(place, backend="gloo", timeout_s=timeout_s) as group:
            outcome = Outcome("result", worker(group, *args))
    except BaseException as error:
        blamed = error.rank if isinstance(error, RankError) else None
        kind = "error" if isinstance(error, EvenMoEError) else "other"
        outcome = Outcome(kind, f"{type(error).__name__}: {error}", blamed)
    pipe.send(outcome)
