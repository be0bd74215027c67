"""What emulated devices of a whole model exchange: found out by listening, then made to arrive.

Shape letters: D devices, L MoE layers, C calls (forwards of one pass), S slots (expert copies, device by device).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evenmoe.bench.emulated import EmulatedGroup, Link


class QueuedGroup(EmulatedGroup):
    """One of D ranks without the others. Listening, it notes what is sent and lets nothing arrive; then, what was
    queued with `expect_calls` arrives, layer by layer.
    """

    def __init__(self, rank: int, num_devices: int) -> None:
        super().__init__(rank, num_devices, torch.zeros(0, 0))
        self.sent: list[Tensor] = []
        self._queue: Iterator[Tensor] | None = None
        self._next = 0

    def listen(self) -> None:
        """Note what is sent from now on."""
        self.sent, self._queue = [], None

    def expect_calls(self, arriving: Sequence[Tensor]) -> None:
        """Set what arrives at the exchanges to come: rows for each of the own slots, by source."""
        self._queue, self._next = iter(arriving), 0

    def all_to_all(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        """Fill `output` with the counts that are expected, or with as many rows as it has room for."""
        if input.is_floating_point():
            if self._rows_RH.shape[0] < output.shape[0] or self._rows_RH.shape[1:] != output.shape[1:]:
                self._rows_RH = torch.randn(output.shape).to(output.dtype)
            output.copy_(self._rows_RH[: output.shape[0]])
        elif self._queue is None:
            self.sent.append(input.clone())
            output.zero_()
        else:
            assert torch.equal(input, self.sent[self._next]), "the layer sends other counts than it said"
            output.copy_(next(self._queue))
            self._next += 1


@dataclass(frozen=True, eq=False)
class Traffic:
    """What one setting sends: sent [D][C * L] by slot, and the slots and bytes per pair of each layer."""

    sent: list[list[Tensor]]
    slots_LD: list[list[int]]
    pair_bytes: int

    def arriving(self, device: int) -> list[Tensor]:
        """Return what arrives at a device's exchanges: rows for each of its slots, by source."""
        parts = []
        for exchange in range(len(self.sent[0])):
            slots_D = self.slots_LD[exchange % len(self.slots_LD)]
            start = sum(slots_D[:device])
            own = [sent[exchange][start : start + slots_D[device]] for sent in self.sent]
            parts.append(torch.cat(own))
        return parts

    def exchange_ns(self, call: int, layer: int, link: Link) -> tuple[int, int]:
        """Return the nanoseconds of a layer's dispatch and combine."""
        slots_D = self.slots_LD[layer]
        exchange = call * len(self.slots_LD) + layer
        traffic = [[int(part.sum()) for part in torch.split(sent[exchange], slots_D)] for sent in self.sent]
        return link.exchange_ns(np.array(traffic, dtype=np.int64), self.pair_bytes)
