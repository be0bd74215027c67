"""Ranks as threads of one process, for tests of what is exchanged: quick, and every exchange is seen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


class ThreadGroup:
    """A Group whose ranks are threads; `calls` lists (operation, shape of what this rank gave)."""

    def __init__(self, rank, world_size, barrier, board):
        self.rank, self.world_size, self.device = rank, world_size, torch.device("cpu")
        self.calls = []
        self._barrier, self._board = barrier, board

    def _swap(self, operation, value, shape=()):
        self.calls.append((operation, tuple(shape)))
        self._board[self.rank] = value
        self._barrier.wait()
        values = list(self._board)
        self._barrier.wait()
        return values

    def all_to_all(self, output, input, output_splits, input_splits):
        assert input.shape[0] == sum(input_splits)
        assert output.shape[0] == sum(output_splits)
        parts = self._swap("all_to_all", input.clone().split(list(input_splits)), input.shape)
        mine = [part[self.rank] for part in parts]
        assert [part.shape[0] for part in mine] == list(output_splits)
        assert all(part.dtype == output.dtype for part in mine)
        output.copy_(torch.cat(mine))

    def all_reduce(self, tensor, op="sum"):
        assert op == "sum"
        first, *others = self._swap("all_reduce", tensor.clone(), tensor.shape)
        for other in others:  # rounded at every step, as on the way between ranks
            first = first + other
        tensor.copy_(first)

    def all_gather(self, tensor):
        return torch.stack(self._swap("all_gather", tensor.clone(), tensor.shape))

    def all_gather_objects(self, value):
        return self._swap("all_gather_objects", value)

    def barrier(self):
        self._swap("barrier", None)


def run_ranks(num_ranks, worker):
    """Return [worker(group) of each rank]; an error on one rank frees the others and is raised."""
    barrier, board = threading.Barrier(num_ranks, timeout=60), [None] * num_ranks
    errors = []

    def guarded(rank):
        try:
            return worker(ThreadGroup(rank, num_ranks, barrier, board))
        except threading.BrokenBarrierError:
            return None
        except BaseException as error:
            errors.append(error)
            barrier.abort()
            return None

    with ThreadPoolExecutor(num_ranks) as pool:
        results = list(pool.map(guarded, range(num_ranks)))
    if errors:
        raise errors[0]
    return results
