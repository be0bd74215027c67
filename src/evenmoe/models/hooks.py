"""Hooks: how each kind of MoE layer is entered. Nothing of a model is replaced or set; hooks alone are added.

A router's forward hook reads what it said; a hook before the experts rewrites their call so that each kept pair is one
top-1 row; a hook after them scatters the rows back. Where nothing changes, the call passes untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evenmoe.models.delivery import Shipment, UntouchedShipment
from evenmoe.models.layer import MoELayer
from evenmoe.models.packing import Pairs
from evenmoe.models.routers import Routing, logits_of, read_router


class LayerHooks(Protocol):
    """What the hooks of one layer must offer."""

    def register(self) -> Iterator[RemovableHandle]:
        """Add the hooks; yields their handles."""

    def forget(self) -> None:
        """Drop whatever an unfinished call left behind."""


class ContractHooks:
    """Router gives (logits, weights, index), experts take (hidden, index, weights)."""

    def __init__(self, layer: MoELayer) -> None:
        self.layer = layer
        self.forget()

    def register(self) -> Iterator[RemovableHandle]:
        assert self.layer.site.experts is not None
        yield self.layer.site.router.register_forward_pre_hook(self._before_router)
        yield self.layer.site.router.register_forward_hook(self._after_router)
        yield self.layer.site.experts.register_forward_pre_hook(self._before_experts, with_kwargs=True)
        yield self.layer.site.experts.register_forward_hook(self._after_experts)

    def forget(self) -> None:
        self._logits: Tensor | None = None
        self._shipment: Shipment | None = None

    def _before_router(self, _module: nn.Module, _args: Any) -> None:
        self.layer.stopwatch.start(self.layer.index)

    def _after_router(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._logits = logits_of(output, self.layer.site)
        self.layer.stopwatch.mark("gate")

    def _before_experts(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        logits, self._logits, self._shipment = self._logits, None, None
        if logits is None:  # the experts were called without their router
            return None
        self.layer.stopwatch.mark("rest")
        call = _experts_call(args, kwargs)
        self._shipment = self.layer.ship(Routing(logits, call[2], call[1]), call)
        return self._called_with(self._shipment), {}

    def _called_with(self, shipment: Shipment) -> tuple[Tensor, Tensor, Tensor]:
        return shipment.call

    def _after_experts(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        shipment, self._shipment = self._shipment, None
        if shipment is None:
            return None
        self.layer.stopwatch.mark("expert")
        collected = shipment.collect(output)
        self.layer.stopwatch.stop()
        return collected


class LongcatHooks(ContractHooks):
    """Experts beyond the routed ones are the identity, and are never dropped.

    The experts' own loop breaks on top-1 rows, so each row has a second, free slot: an identity expert of weight 0.
    """

    def _called_with(self, shipment: Shipment) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(shipment, UntouchedShipment):
            return shipment.call
        rows, expert_P1, weight_P1 = shipment.call
        free_P1 = torch.full_like(expert_P1, self.layer.site.num_experts)
        return (
            rows,
            torch.cat([expert_P1, free_P1], 1),
            torch.cat([weight_P1, torch.zeros_like(weight_P1)], 1),
        )


class Llama4Hooks:
    """The experts take hidden states, already weighted, of all tokens for all experts, and run every one of them.

    Here each expert is given its kept tokens alone, filled up to the load of the busiest: E * max load rows instead
    of E * T.
    """

    def __init__(self, layer: MoELayer) -> None:
        self.layer = layer
        self.forget()

    def register(self) -> Iterator[RemovableHandle]:
        site = self.layer.site
        assert site.experts is not None
        yield site.router.register_forward_hook(self._after_router)
        yield site.experts.register_forward_pre_hook(self._before_experts)
        yield site.experts.register_forward_hook(self._after_experts)

    def forget(self) -> None:
        self._routing: Routing | None = None
        self._hidden: Tensor | None = None
        self._packed: tuple[Pairs, Tensor, torch.Size] | None = None

    def _after_router(self, _module: nn.Module, args: tuple[Tensor], output: Any) -> None:
        self._routing, self._hidden = read_router(output, self.layer.site, args[0]), args[0]

    def _before_experts(self, _module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        routing, hidden = self._routing, self._hidden
        self.forget()
        pairs = self.layer.route(routing, hidden) if routing is not None and hidden is not None else None
        if pairs is None or hidden is None:
            return None
        num_experts = self.layer.site.num_experts
        order = pairs.expert_P.argsort(stable=True)
        pairs = Pairs(pairs.token_P[order], pairs.expert_P[order], pairs.weight_P[order])
        load_E = torch.bincount(pairs.expert_P, minlength=num_experts)
        start_E = load_E.cumsum(0) - load_E
        busiest = max(int(load_E.max()), 1)
        position_P = torch.arange(pairs.expert_P.numel(), device=load_E.device) - start_E[pairs.expert_P]
        row_P = pairs.expert_P * busiest + position_P
        rows = hidden.new_zeros(num_experts * busiest, hidden.shape[-1])
        rows = rows.index_copy(0, row_P, hidden[pairs.token_P] * pairs.weight_P[:, None])
        self._packed = (pairs, row_P, args[0].shape)
        return (rows,)

    def _after_experts(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        packed, self._packed = self._packed, None
        if packed is None:
            return None
        pairs, row_P, shape = packed
        num_tokens = shape[0] // self.layer.site.num_experts
        place_P = pairs.expert_P * num_tokens + pairs.token_P  # the block sums over experts itself
        return output.new_zeros(shape[0], output.shape[-1]).index_copy(0, place_P, output[row_P])


class JetMoeHooks:
    """The router sorts tokens by expert itself; its lists are replaced by those of the kept pairs."""

    def __init__(self, layer: MoELayer) -> None:
        self.layer = layer

    def register(self) -> Iterator[RemovableHandle]:
        yield self.layer.site.router.register_forward_hook(self._after_router)

    def forget(self) -> None:
        """Nothing is kept between hooks."""

    def _after_router(self, _module: nn.Module, args: tuple[Tensor], output: Any) -> Any:
        pairs = self.layer.route(read_router(output, self.layer.site, args[0]), args[0])
        if pairs is None:
            return None
        order = pairs.expert_P.argsort(stable=True)
        load_E = torch.bincount(pairs.expert_P, minlength=self.layer.site.num_experts)
        return order, pairs.token_P[order], pairs.weight_P[order], load_E.tolist(), output[4]


class ErnieHooks(ContractHooks):
    """Text and image tokens have experts of their own: each of the two layers is told which tokens reach it."""

    def __init__(self, layer: MoELayer, both: nn.Module, vision: bool) -> None:
        super().__init__(layer)
        self._both, self._vision = both, vision

    def register(self) -> Iterator[RemovableHandle]:
        yield self._both.register_forward_pre_hook(self._before_both, with_kwargs=True)
        yield from super().register()

    def forget(self) -> None:
        super().forget()
        self.layer.subset = None

    def _before_both(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        types = args[1] if len(args) > 1 else kwargs.get("moe_mm_token_type_ids")
        self.layer.subset = None
        if types is not None and bool(types.any()):
            is_image_T = types.reshape(-1).bool()
            self.layer.subset = (is_image_T if self._vision else ~is_image_T).nonzero().view(-1)


def hooks_for(layer: MoELayer, model: nn.Module) -> LayerHooks:
    """Return the hooks that fit a layer's kind."""
    kind = layer.site.kind
    if kind == "llama4":
        return Llama4Hooks(layer)
    if kind == "jetmoe":
        return JetMoeHooks(layer)
    if kind == "longcat":
        return LongcatHooks(layer)
    if kind == "ernie_vl":
        parent, _, own_name = layer.site.name.rpartition(".")
        return ErnieHooks(layer, model.get_submodule(parent), vision=own_name == "vision_moe")
    return ContractHooks(layer)


def _experts_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    names = ("hidden_states", "top_k_index", "top_k_weights")
    given = dict(zip(names, args, strict=False)) | kwargs
    hidden, index, weight = (given[name] for name in names)
    return hidden, index, weight
