"""Exchange: pairs go to the ranks that hold their experts, and the experts' outputs come back.

Shape letters: T tokens, E experts, D devices (ranks), P own pairs, R received rows, H hidden size, S slots: the copies
of all experts, numbered rank by rank and, on a rank, in the order of the experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from evenmoe.models.packing import Pairs, gather_rows, scatter_rows

if TYPE_CHECKING:
    from evenmoe.models.stopwatch import Stopwatch
    from evenmoe.parallel.group import Group

_INT16_ROOM = 2**15


@dataclass(frozen=True, eq=False)
class Slots:
    """Where the copies of one layer's experts are: slot_DE [D, E], -1 where a rank holds no copy."""

    slot_DE: Tensor
    num_local_D: tuple[int, ...]

    @staticmethod
    def of(holds_DE: Tensor) -> Slots:
        """Number the copies, given which rank holds which expert, [D, E] bool."""
        number_DE = holds_DE.flatten().cumsum(0).view(holds_DE.shape) - 1
        return Slots(torch.where(holds_DE, number_DE, -1), tuple(holds_DE.sum(1).tolist()))

    def of_pairs(self, expert_P: Tensor, device_P: Tensor) -> Tensor:
        """Return [P]: the slot that runs each pair."""
        flat_P = device_P * self.slot_DE.shape[1] + expert_P
        return self.slot_DE.view(-1).index_select(0, flat_P)


@dataclass(frozen=True, eq=False)
class Plan:
    """In which order the pairs are sent, and how many go to each slot."""

    order_P: Tensor
    count_S: Tensor


def plan(slot_P: Tensor, num_slots: int) -> Plan:
    """Return how to send pairs, given the slot of each: by slot, those of a slot in their own order."""
    key_P = slot_P.to(torch.int16) if num_slots < _INT16_ROOM else slot_P  # a third of the time to sort
    return Plan(key_P.argsort(stable=True), torch.bincount(slot_P, minlength=num_slots))


class Workspace:
    """Buffers that every layer uses again: fresh memory of this size costs more to touch than the rows to copy."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def rows(self, name: str, num_rows: int, like: Tensor) -> Tensor:
        """Return [num_rows, H] of the dtype and device of `like` [..., H]; what it held before is overwritten."""
        key, needed = (name, like.dtype, like.device), num_rows * like.shape[-1]
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < needed:
            with torch.inference_mode(False):
                buffer = torch.empty(needed, dtype=like.dtype, device=like.device)
            self._buffers[key] = buffer
        return buffer[:needed].view(num_rows, like.shape[-1])


class Exchange:
    """The all-to-alls of one rank's layers."""

    def __init__(self, group: Group) -> None:
        self._group, self._workspace = group, Workspace()

    def deliver(
        self, hidden: Tensor, pairs: Pairs, device_P: Tensor, slots: Slots, stopwatch: Stopwatch
    ) -> SentRows:
        """Send each pair's row to the rank in `device_P`; return the rows that came here, and the way back."""
        group, rank, hidden_TH = self._group, self._group.rank, hidden.reshape(-1, hidden.shape[-1])
        planned = plan(slots.of_pairs(pairs.expert_P, device_P), sum(slots.num_local_D))
        sent_PH = self._workspace.rows("sent", pairs.token_P.shape[0], hidden_TH)
        torch.index_select(hidden_TH, 0, pairs.token_P.index_select(0, planned.order_P), out=sent_PH)
        stopwatch.mark("permute")
        wait(group, stopwatch)
        num_local, num_ranks = slots.num_local_D[rank], group.world_size
        arriving = planned.count_S.new_empty(num_ranks * num_local)
        group.all_to_all(arriving, planned.count_S, [num_local] * num_ranks, list(slots.num_local_D))
        sent_D = torch.stack([part.sum() for part in torch.split(planned.count_S, list(slots.num_local_D))])
        sizes = torch.stack([sent_D, arriving.view(num_ranks, num_local).sum(1)]).tolist()
        received_RH = self._workspace.rows("received", sum(sizes[1]), hidden_TH)
        group.all_to_all(received_RH, sent_PH, sizes[1], sizes[0])
        local = torch.arange(num_local, device=arriving.device).repeat(num_ranks)
        expert_R = local.repeat_interleave(arriving, output_size=sum(sizes[1]))
        stopwatch.mark("dispatch")
        return SentRows(
            exchange=self,
            pairs=pairs,
            order_P=planned.order_P,
            sizes_out=sizes[0],
            sizes_in=sizes[1],
            shape=hidden.shape,
            call=_call(received_RH, expert_R),
            stopwatch=stopwatch,
        )

    def send_back(self, sent: SentRows, output_RH: Tensor) -> Tensor:
        """Return [P, H]: the experts' outputs for the pairs of this rank, in the order in which they were sent."""
        num_received = sum(sent.sizes_in)
        back_PH = self._workspace.rows("sent", sum(sent.sizes_out), output_RH)
        rows_RH = output_RH[:num_received].contiguous()
        self._group.all_to_all(back_PH, rows_RH, sent.sizes_out, sent.sizes_in)
        return back_PH

    def wait(self, stopwatch: Stopwatch) -> None:
        """Wait for the other ranks, if the stopwatch tells waiting from exchanging."""
        wait(self._group, stopwatch)


@dataclass(frozen=True, kw_only=True, eq=False)
class SentRows:
    """A layer's rows on their way, in form "data"; a Shipment.

    call: what this rank's experts are to be called with: rows [R, H], local experts [R, 1], weights of one [R, 1].
        The rows are in a buffer that the next delivery overwrites.
    sizes_out, sizes_in: rows sent to each rank, and received from each.
    """

    exchange: Exchange
    pairs: Pairs
    order_P: Tensor
    sizes_out: list[int]
    sizes_in: list[int]
    shape: torch.Size
    call: tuple[Tensor, Tensor, Tensor]
    stopwatch: Stopwatch

    def collect(self, output_RH: Tensor) -> Tensor:
        """Return the outputs of every rank's experts for this rank's tokens, weighted and summed, like `hidden`."""
        output_RH = output_RH.reshape(-1, output_RH.shape[-1])
        self.exchange.wait(self.stopwatch)
        back_PH = self.exchange.send_back(self, output_RH)
        self.stopwatch.mark("combine")
        total_TH = weighted_sum(back_PH, self.pairs, self.order_P, self.shape[:-1].numel())
        self.stopwatch.mark("permute")
        return total_TH.view(self.shape)


def weighted_sum(rows_PH: Tensor, pairs: Pairs, order_P: Tensor, num_tokens: int) -> Tensor:
    """Return [T, H]: weight * row summed per token, where row i is that of pair `order_P[i]`; pairs come by token.

    Half-precision rows are summed in float32. One pass over the rows, where scaling and adding them would take three.
    """
    if rows_PH.shape[0] == 0:
        return rows_PH.new_zeros(num_tokens, rows_PH.shape[1])
    place_P = torch.empty_like(order_P)
    place_P[order_P] = torch.arange(order_P.shape[0], device=order_P.device)
    count_T = torch.bincount(pairs.token_P, minlength=num_tokens)
    start_T, weight_P = count_T.cumsum(0) - count_T, pairs.weight_P.to(rows_PH.dtype)
    return F.embedding_bag(place_P, rows_PH, start_T, mode="sum", per_sample_weights=weight_P)


class SharedBatch:
    """A layer's rows in form "shared": the pairs of this rank's experts; a Shipment. Nothing is sent to the experts."""

    def __init__(
        self, group: Group, hidden: Tensor, pairs: Pairs, device_P: Tensor, slots: Slots, stopwatch: Stopwatch
    ) -> None:
        own = (device_P == group.rank).nonzero().view(-1)
        expert_P = pairs.expert_P.index_select(0, own)
        slot_P = slots.of_pairs(expert_P, torch.full_like(expert_P, group.rank))
        self._pairs = Pairs(
            pairs.token_P.index_select(0, own),
            slot_P - sum(slots.num_local_D[: group.rank]),
            pairs.weight_P.index_select(0, own),
        )
        self._group, self._stopwatch, self._shape = group, stopwatch, hidden.shape
        self.call = gather_rows(hidden, self._pairs)
        stopwatch.mark("permute")

    def collect(self, output_RH: Tensor) -> Tensor:
        """Return the outputs of all ranks' experts summed per token, like `hidden`, the same on every rank."""
        half = output_RH.dtype in (torch.float16, torch.bfloat16)
        part_TH = scatter_rows(output_RH.float() if half else output_RH, self._pairs, self._shape)
        self._stopwatch.mark("permute")
        wait(self._group, self._stopwatch)
        self._group.all_reduce(part_TH)
        self._stopwatch.mark("combine")
        return part_TH.to(output_RH.dtype)


def wait(group: Group, stopwatch: Stopwatch) -> None:
    """Wait for the other ranks, if the stopwatch tells waiting from exchanging."""
    if stopwatch.separates_waiting:
        group.barrier()
        stopwatch.mark("wait")


def _call(rows_RH: Tensor, expert_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the experts are called with; no row at all becomes one of zeros with weight 0."""
    if rows_RH.shape[0] == 0:
        nothing = expert_R.new_zeros(1, 1)
        return rows_RH.new_zeros(1, rows_RH.shape[1]), nothing, rows_RH.new_zeros(1, 1)
    return rows_RH, expert_R[:, None], rows_RH.new_ones(rows_RH.shape[0], 1)
