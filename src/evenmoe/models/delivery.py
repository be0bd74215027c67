"""Delivery: how a layer's pairs reach the experts that run them, and come back.

Shape letters: T tokens, E experts, P pairs, R rows that the experts are called with, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from torch import Tensor

from evenmoe.models.packing import Pairs, gather_rows, scatter_rows
from evenmoe.models.stopwatch import Stopwatch
from evenmoe.placement import Placement
from evenmoe.routing import Policy, RoutingContext

Form = Literal["data", "shared"]
"""data: every rank has rows of its own. shared: every rank has the same batch."""


class Shipment(Protocol):
    """Pairs on their way."""

    @property
    def call(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [R, H], experts [R, 1] and weights [R, 1]: what the experts are called with."""

    def collect(self, output_RH: Tensor) -> Tensor:
        """Return the experts' output summed per token, in the shape of the hidden states before delivery."""


class Parallel(Protocol):
    """Experts shared out over processes, as `attach(parallel=...)` takes them (see evenmoe.parallel.shard)."""

    @property
    def rank(self) -> int: ...

    @property
    def num_devices(self) -> int: ...

    @property
    def form(self) -> Form: ...

    @property
    def placement(self) -> Placement:
        """Fitted to the model: one row per MoE layer."""

    @property
    def num_experts_L(self) -> Sequence[int]:
        """Experts of each MoE layer on all ranks together."""

    def keep(
        self,
        policy: Policy,
        scores_TE: Tensor,
        chosen_TE: Tensor,
        ctx: RoutingContext,
        *,
        decode: bool,
        applies: Callable[[bool, int], bool],
    ) -> Tensor | None:
        """Return [T, E]: the pairs of this rank's tokens that run; None where the policy lets the call pass.

        `applies(decode, tokens)` is the decode rule for a batch of so many real tokens on all ranks together. Called
        on every rank for every layer, also with no real token, so it may communicate; ranks must agree.
        """

    def deliver(
        self, layer: int, hidden: Tensor, pairs: Pairs, device_P: Tensor, stopwatch: Stopwatch
    ) -> Shipment:
        """Send each pair's row to the device that runs it; marks permute, wait and dispatch.

        The shipment's `collect` marks wait, combine and permute.
        """


class LocalShipment:
    """Pairs that run in this process, one top-1 row each."""

    def __init__(self, hidden: Tensor, pairs: Pairs, stopwatch: Stopwatch) -> None:
        self._pairs, self._shape, self._stopwatch = pairs, hidden.shape, stopwatch
        self.call = gather_rows(hidden, pairs)
        stopwatch.mark("permute")

    def collect(self, output_RH: Tensor) -> Tensor:
        """Return the rows summed per token, in the shape of the hidden states."""
        output = scatter_rows(output_RH, self._pairs, self._shape)
        self._stopwatch.mark("permute")
        return output


class UntouchedShipment:
    """A call that passes as it is."""

    def __init__(self, call: tuple[Tensor, Tensor, Tensor]) -> None:
        self.call = call

    def collect(self, output_RH: Tensor) -> Tensor:
        """Return the experts' output as it is."""
        return output_RH
