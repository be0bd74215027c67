"""ExpertParallel: how the layers of a sharded model reach the experts of all ranks.

Shape letters: T tokens, E experts, D devices (ranks), L layers, P pairs, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from evenmoe.errors import ConfigError
from evenmoe.models.delivery import Form
from evenmoe.models.packing import Pairs
from evenmoe.parallel.exchange import Exchange, SentRows, SharedBatch, Slots
from evenmoe.parallel.whole_batch import Applies, decides_over_ranks, keep_over_ranks
from evenmoe.placement import Placement
from evenmoe.routing import Policy, RoutingContext

if TYPE_CHECKING:
    from evenmoe.models.stopwatch import Stopwatch
    from evenmoe.parallel.group import Group


class Expecting(Protocol):
    """Experts that are to be called once after a delivery."""

    expected: bool


class ExpertParallel:
    """Expert parallelism of one sharded model, made by `shard` and given to `attach`. A models.delivery.Parallel.

    rank, num_devices: this process, and how many there are; a rank is a device of the placement.
    num_experts_L: the experts of each layer on all ranks together.
    """

    def __init__(
        self,
        group: Group,
        placement: Placement,
        form: Form,
        num_experts_L: Sequence[int],
        experts_L: Sequence[Expecting],
    ) -> None:
        self.group, self.placement = group, placement
        self.form: Form = form
        self.rank, self.num_devices = group.rank, group.world_size
        self.num_experts_L = tuple(num_experts_L)
        self._experts_L = tuple(experts_L)
        self._exchange = Exchange(group)
        holds_L = (torch.from_numpy(placement.holds(layer)) for layer in range(len(self.num_experts_L)))
        self._slots_L = [Slots.of(holds_DE.to(group.device)) for holds_DE in holds_L]

    def deliver(
        self, layer: int, hidden: Tensor, pairs: Pairs, device_P: Tensor, stopwatch: Stopwatch
    ) -> SentRows | SharedBatch:
        """Bring the rows of `pairs` to the ranks in `device_P`, each of which holds its pair's expert.

        hidden [..., H] has a row for each token. Collective: every rank must call it for the same layer, with whatever
        pairs it has, call the layer's experts, and then `collect` their output.
        Raises ConfigError where a gradient would be needed.
        """
        if torch.is_grad_enabled() and (hidden.requires_grad or pairs.weight_P.requires_grad):
            raise ConfigError(
                "gradients",
                "enabled",
                "torch.no_grad() or torch.inference_mode(): expert parallelism has no backward",
            )
        self._experts_L[layer].expected = True
        slots = self._slots_L[layer]
        if self.form == "shared":
            return SharedBatch(self.group, hidden.detach(), pairs, device_P, slots, stopwatch)
        return self._exchange.deliver(hidden.detach(), pairs, device_P, slots, stopwatch)

    def keep(
        self,
        policy: Policy,
        scores_TE: Tensor,
        chosen_TE: Tensor,
        ctx: RoutingContext,
        *,
        decode: bool,
        applies: Applies,
    ) -> Tensor | None:
        """Return [T, E] bool: the pairs of this rank's tokens that run; None where the policy lets the call pass.

        A policy that counts over the batch of all ranks decides for all of them, see `evenmoe.parallel.whole_batch`.
        Others decide on each rank alone, and whether they act, by the number of tokens that there would be if every
        rank had as many as this one: nothing is exchanged.
        """
        if self.form == "data" and self.num_devices > 1 and decides_over_ranks(policy):
            return keep_over_ranks(
                self.group, policy, scores_TE, chosen_TE, ctx, decode=decode, applies=applies
            )
        num_real = chosen_TE.shape[0] if ctx.real_T is None else int(ctx.real_T.sum())
        num_tokens = num_real * self.num_devices if self.form == "data" else num_real
        return policy.keep(scores_TE, chosen_TE, ctx) if applies(decode, num_tokens) else None
