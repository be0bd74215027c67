"""Functions that the processes of the parallel tests run; light, as every process imports this module."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

import torch

from evenmoe.errors import ConfigError

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)


def noop(description, done, total):
    """Progress that nobody follows."""


def counts(source: int, target: int) -> int:
    """How many rows rank `source` sends to rank `target` in `collectives`: zeros among them."""
    return (2 * source + target) % 3


def collectives(group, progress=noop):
    """Every collective once; what came, as lists by dtype."""
    progress("start", 0, 2)
    logging.getLogger("evenmoe.parallel.workers").warning("a word of %d", group.rank)
    rank, ranks = group.rank, range(group.world_size)
    received = {}
    for dtype in DTYPES:
        sent_D, received_D = [counts(rank, d) for d in ranks], [counts(d, rank) for d in ranks]
        rows = torch.cat([torch.full((n, 2), rank * 10 + d) for d, n in enumerate(sent_D)]).to(dtype)
        output = torch.zeros(sum(received_D), 2, dtype=dtype)
        group.all_to_all(output, rows, received_D, sent_D)
        received[str(dtype)] = output.tolist()
    empty = torch.zeros(0, 2)
    group.all_to_all(empty, empty.clone(), [0] * group.world_size, [0] * group.world_size)
    reduced = {}
    for op in ("sum", "max", "min"):
        tensor = torch.tensor([float(rank), 1.0])
        group.all_reduce(tensor, op)
        reduced[op] = tensor.tolist()
    group.barrier()
    progress("end", 2, 2)
    return {
        "received": received,
        "reduced": reduced,
        "gathered": group.all_gather(torch.tensor([rank, 7])).tolist(),
        "gathered scalar": group.all_gather(torch.tensor(rank)).tolist(),
        "objects": group.all_gather_objects({"rank": rank}),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }


def steps(group, bad, fault):
    """Six collectives; before the third, rank `bad` does `fault` to itself."""
    for step in range(6):
        group.at(f"layer {step}, dispatch")
        if step == 2 and group.rank == bad:
            FAULTS[fault](group)
        group.all_reduce(torch.zeros(4))
    return "done"


def _spin(group):
    while True:
        pass


def _raise_value_error(group):
    raise ValueError("no such token")


def _wait_for_all_to_all(group):
    ones = [1] * group.world_size
    group.all_to_all(torch.zeros(sum(ones)), torch.zeros(sum(ones)), ones, ones)


FAULTS = {
    "killed": lambda group: os.kill(os.getpid(), signal.SIGKILL),
    "stopped": lambda group: os.kill(os.getpid(), signal.SIGSTOP),
    "spins": _spin,
    "waits": lambda group: time.sleep(1000),
    "raises": _raise_value_error,
    "exits": lambda group: sys.exit(3),
    "exits at once": lambda group: os._exit(3),
    "leaves": lambda group: group.close(),
    "differs": _wait_for_all_to_all,
}


def supervised_steps(group, progress, bad, fault):
    """`steps` for a launch."""
    return steps(group, bad, fault)


def keep_trying(group, bad, fault):
    """A worker that catches the error and goes on: every later collective must fail alike."""
    try:
        steps(group, bad, fault)
    except Exception as error:
        first = str(error)
    try:
        group.barrier()
    except Exception as error:
        return first, str(error)
    return first, "no error"


def refuse(group, progress):
    """An error of evenmoe's own."""
    raise ConfigError("gamma", -1, "over 0")


def answer_unpicklable(group, progress):
    """A result that cannot travel."""
    return lambda: None


def wait_forever(group, progress, folder):
    """Write the own pid to `folder`, then wait; a `finally` block writes that it ran. Rank 1 is stopped (SIGSTOP)."""
    (folder / f"{group.rank}.pid").write_text(str(os.getpid()))
    try:
        while not (folder / "0.pid").exists():
            time.sleep(0.05)
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    finally:
        (folder / f"{group.rank}.unwound").write_text("yes")
