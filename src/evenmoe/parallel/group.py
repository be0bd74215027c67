"""A group of ranks: every collective goes through it, so that a failure is diagnosed and names the rank."""

from __future__ import annotations

import atexit
import pickle
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from evenmoe.errors import ConfigError, RankError, ShapeError, check_choice
from evenmoe.parallel.health import PATIENCE_S, Health
from evenmoe.parallel.stores import first_line

Result = TypeVar("Result")
Reduction = Literal["sum", "max", "min"]

LINGER_S = 1.0
_REDUCTIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class Group:
    """The ranks that work together: made by `init` (torchrun), by `launch`, or by `Group.alone`.

    Every method that exchanges is a collective: all ranks call the same ones in the same order. When one fails or
    takes longer than `timeout_s` (seconds), it raises RankError with the rank to blame, at the latest
    health.PATIENCE_S later, and so does every later call. With one rank nothing is sent.
    """

    def __init__(
        self, rank: int, world_size: int, device: torch.device, timeout_s: float, health: Health | None
    ) -> None:
        self.rank, self.world_size, self.device, self.timeout_s = rank, world_size, device, timeout_s
        self._health = health
        self._broken: RankError | None = None
        self._is_open = True
        if health is not None:
            atexit.register(self._abandon)

    @classmethod
    def alone(cls, device: torch.device | str = "cpu", *, timeout_s: float = 60.0) -> Group:
        """A group of this process only."""
        return cls(0, 1, torch.device(device), timeout_s, None)

    def all_to_all(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        """Send `input_splits[d]` rows of `input` to each rank d, in order, and fill `output` with what comes.

        `output_splits[d]` rows come from rank d. Counts may be 0. Raises ShapeError where counts and rows disagree.
        """
        self._check_rows("output", output, output_splits)
        self._check_rows("input", input, input_splits)
        if output.dtype != input.dtype or output.shape[1:] != input.shape[1:]:
            raise ShapeError(
                f"output {tuple(output.shape)} {output.dtype} and input {tuple(input.shape)} {input.dtype} "
                "must have rows of the same shape and dtype"
            )
        if self.world_size == 1:
            output.copy_(input)
            return
        sent = input.contiguous()
        self._exchange(
            "all_to_all",
            lambda: dist.all_to_all_single(output, sent, list(output_splits), list(input_splits)),
        )

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum") -> None:
        """Replace `tensor` by its sum, maximum or minimum over the ranks. Shapes must be equal on all ranks."""
        check_choice("op", op, _REDUCTIONS)
        if self.world_size > 1:
            self._exchange("all_reduce", lambda: dist.all_reduce(tensor, op=_REDUCTIONS[op]))

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors, all of one shape, stacked by rank: [D, ...]."""
        gathered = tensor.new_empty((self.world_size, *tensor.shape))
        if self.world_size == 1:
            gathered[0] = tensor
            return gathered
        parts, own = list(gathered.unbind(0)), tensor.contiguous()
        self._exchange("all_gather", lambda: dist.all_gather(parts, own))
        return gathered

    def all_gather_objects(self, value: object) -> list[Any]:
        """The ranks' values, by rank; they are pickled, so only between processes that trust each other."""
        if self.world_size == 1:
            return [pickle.loads(pickle.dumps(value))]
        values: list[Any] = [None] * self.world_size
        self._exchange("all_gather_objects", lambda: dist.all_gather_object(values, value))
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            self._exchange("barrier", dist.barrier)

    def at(self, description: str) -> None:
        """Note where this rank is, as in "layer 3, dispatch", for the error message if it does not go on. Local."""
        if self._health is not None:
            self._health.note = description

    def close(self) -> None:
        """Leave the group; waits at most LINGER_S seconds for the others to leave too. A second call does nothing."""
        if self._health is not None and self._is_open:
            self._health.stop("stopped" if self._broken else "left")
            if self._broken is None:
                self._health.wait_until_ended(LINGER_S)
        self._end()

    def fail(self, error: BaseException) -> None:
        """Leave the group because of an error on this rank, which the others then name."""
        if self._health is not None and self._is_open:
            text = f"{type(error).__name__}: {first_line(error)}"
            self._health.stop("stopped" if caused_by_rank(error) else "failed", text)
        self._end()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.fail(error)

    def _exchange(self, operation: str, action: Callable[[], Result]) -> None:
        """Run one collective; its failure becomes a RankError."""
        health = self._usable()
        health.enter(operation)
        try:
            action()
        except RuntimeError as error:  # gloo's, NCCL's and the store's errors are all RuntimeErrors
            verdict = health.diagnose(first_line(error))
            self._broken = RankError(verdict.rank, verdict.reason)
            raise self._broken from error
        health.leave()

    def _usable(self) -> Health:
        if self._broken is not None:
            raise RankError(self._broken.rank, self._broken.reason)
        if not self._is_open or self._health is None:
            raise ConfigError("group", "closed", "a group that is open: exchange before close()")
        return self._health

    def _check_rows(self, name: str, tensor: Tensor, splits: Sequence[int]) -> None:
        if len(splits) != self.world_size or sum(splits) != tensor.shape[0] or min(splits) < 0:
            raise ShapeError(
                f"{name}_splits {list(splits)} must be {self.world_size} counts that sum to the {tensor.shape[0]} "
                f"rows of {name}"
            )

    def _abandon(self) -> None:
        """The process ends without having closed its group."""
        if self._is_open and self._health is not None:
            self._health.stop("failed", "its process ended without closing the group")
            self._end()

    def _end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._health is None:
            return
        atexit.unregister(self._abandon)
        dist.destroy_process_group()
        if self._health.serves_store:
            self._health.wait_until_ended(PATIENCE_S + LINGER_S)  # the others read from it whom to blame


def caused_by_rank(error: BaseException | None) -> RankError | None:
    """The RankError that `error` is or came from, if any."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, RankError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None
