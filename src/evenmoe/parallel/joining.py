"""How a process joins its group: it reads its place, meets the others in a store, and sets up the collectives."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from evenmoe.errors import ConfigError, RankError
from evenmoe.parallel.board import ANSWER_S, Board, StoreLostError, Verdict
from evenmoe.parallel.group import Group
from evenmoe.parallel.health import Health
from evenmoe.parallel.stores import connect_store, first_line, section, serve_store

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

logger = logging.getLogger(__name__)

JOIN_S = 60.0
"""The least time in which all ranks must have joined: each must start and import torch before it can."""

_generations = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Place:
    """One process's place in a group, and where the group's store is."""

    rank: int
    num_ranks: int
    local_rank: int
    host: str
    port: int
    is_store_hosted: bool
    """True: the launcher serves the store. False: rank 0 does."""
    prefix: str
    """Keeps the store's keys of one group apart from those of the next."""

    @property
    def store_rank(self) -> int | None:
        """The rank that serves the store; None where the launcher does."""
        return None if self.is_store_hosted else 0


def init(*, backend: str | None = None, timeout_s: float = 60.0) -> Group:
    """Join the group that torchrun started: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.

    `backend` is "gloo" (CPU) or "nccl" (GPU); by default nccl where there is a GPU. `timeout_s` seconds is how long
    one collective may take. Use the group as a context manager, so that the others learn of an error here. Raises
    ConfigError for missing or wrong variables, a port in use and a backend that is not here, RankError for a rank
    that does not come. The GPU path is written, not run here.
    """
    return join(read_place(os.environ), backend=backend, timeout_s=timeout_s)


def join(place: Place, *, backend: str | None, timeout_s: float) -> Group:
    """Join the group as `place` says. Errors as for `init`."""
    check_timeout(timeout_s)
    chosen = check_backend(backend, place.local_rank)
    device = torch.device("cuda", place.local_rank) if chosen == "nccl" else torch.device("cpu")
    if chosen == "nccl":
        torch.cuda.set_device(device)
        # An NCCL call returns before it is done; without this a hang would be found where no one can name it.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    if place.num_ranks == 1:
        return Group.alone(device, timeout_s=timeout_s)
    if dist.is_initialized():
        raise ConfigError("process group", "open already", "one per process; close the other group first")
    join_s = max(timeout_s, JOIN_S)
    store = _connect(place, join_s, is_server=place.rank == 0 and not place.is_store_hosted)
    health = _appear(place, join_s, store)
    try:
        dist.init_process_group(
            chosen,
            store=section(store, f"{place.prefix}/group"),
            rank=place.rank,
            world_size=place.num_ranks,
            timeout=timedelta(seconds=join_s),
        )
    except RuntimeError as error:
        verdict = health.diagnose(first_line(error))
        health.stop("stopped", verdict.reason)
        raise RankError(verdict.rank, verdict.reason) from error
    # Joining may take longer than a collective; torch has no public name for a change of the timeout.
    _set_pg_timeout(timedelta(seconds=timeout_s))
    health.run()
    logger.debug("rank %d of %d joined over %s on %s", place.rank, place.num_ranks, chosen, device)
    return Group(place.rank, place.num_ranks, device, timeout_s, health)


def read_place(environ: Mapping[str, str]) -> Place:
    """This process's place from the variables that torchrun sets. Raises ConfigError for a missing or wrong one."""
    num_ranks = _read_number(environ, "WORLD_SIZE", 1, 1 << 20)
    restart = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Place(
        rank=_read_number(environ, "RANK", 0, num_ranks - 1),
        num_ranks=num_ranks,
        local_rank=_read_number(environ, "LOCAL_RANK", 0, num_ranks - 1),
        host=_read(environ, "MASTER_ADDR"),
        port=_read_number(environ, "MASTER_PORT", 1, 65535),
        is_store_hosted=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        prefix=f"evenmoe/{restart}/{next(_generations)}",
    )


def check_timeout(timeout_s: float) -> None:
    """Raise ConfigError unless `timeout_s` is a number of seconds over 0."""
    if not 0 < timeout_s < float("inf"):
        raise ConfigError("timeout_s", timeout_s, "a number of seconds over 0")


def check_backend(backend: str | None, local_rank: int = 0) -> str:
    """The backend to use for `backend` (None: nccl where there is a GPU). ConfigError where it cannot be used."""
    if not dist.is_available():
        raise ConfigError("backend", backend, "none works: this torch was built without torch.distributed")
    can_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    usable = [name for name, works in (("gloo", dist.is_gloo_available()), ("nccl", can_nccl)) if works]
    chosen = backend if backend is not None else usable[-1]
    if chosen not in usable:
        why = " (nccl needs a GPU and a torch built for it)" if chosen == "nccl" else ""
        raise ConfigError("backend", chosen, "one of those that work here: " + ", ".join(usable) + why)
    if chosen == "nccl" and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            "local rank",
            local_rank,
            f"under the {torch.cuda.device_count()} GPUs of this machine, one per rank",
        )
    return chosen


def _connect(place: Place, timeout_s: float, *, is_server: bool) -> TCPStore:
    if is_server:
        return serve_store(place.host, place.port, "MASTER_PORT", timeout_s)
    try:
        return connect_store(place.host, place.port, timeout_s)
    except RuntimeError as error:
        where = f"at {place.host}:{place.port} within {timeout_s:g} s"
        if place.store_rank is None:
            raise RankError(
                None, f"the launcher's store does not answer {where}: {first_line(error)}"
            ) from error
        raise RankError(
            place.store_rank, f"does not serve the ranks' store {where}: {first_line(error)}"
        ) from error


def _appear(place: Place, timeout_s: float, served: TCPStore) -> Health:
    """Write this rank's first row and wait for those of the others."""
    # A connection of its own: a question on the group's would wait behind the set-up of the collectives.
    store = _connect(place, timeout_s, is_server=False)
    board = Board(section(store, f"{place.prefix}/board"), place.num_ranks, served, answer_s=timeout_s)
    health = Health(board, place.rank, place.num_ranks, place.store_rank)
    verdict: Verdict | None
    try:
        health.start()
        verdict = health.wait_for_all(timeout_s)
    except StoreLostError as error:
        verdict = health.store_lost(error, "it was there before")
    if verdict is not None:
        health.stop("stopped", verdict.reason)
        raise RankError(verdict.rank, verdict.reason)
    board.answer_s = ANSWER_S
    return health


def _read(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name)
    if not value:
        raise ConfigError(name, value, "set: start this script with torchrun, or use evenmoe.parallel.launch")
    return value


def _read_number(environ: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = _read(environ, name)
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ConfigError(name, text, f"a whole number from {low} to {high}")
    return int(text)
