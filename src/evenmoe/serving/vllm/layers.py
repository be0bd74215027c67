"""The classes that vLLM builds instead of its own: a runner whose router asks the policy, and compacted experts.

Shape letters: T tokens, E experts, K top-k, S slots, P pairs, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context, is_forward_context_available
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.probe import LOGIT_STD, NUM_TOKENS
from evenmoe.models.routers import Routing
from evenmoe.serving.vllm.checks import check_experts, check_layers, check_router
from evenmoe.serving.vllm.compaction import own_experts, slots_of
from evenmoe.serving.vllm.engine import Engine
from evenmoe.serving.vllm.process import engine_of


class PolicyRouter(BaseRouter):  # type: ignore[misc]
    """The model's own router, whose choice the policy then has a say in. A dropped slot has expert -1, weight 0."""

    def __init__(self, inner: BaseRouter, name: str, engine: Engine, hidden_size: int) -> None:
        super().__init__(inner.top_k, inner.global_num_experts, inner.eplb_state)
        self._inner, self._name, self._engine, self._hidden_size = inner, name, engine, hidden_size
        self.acted = True
        """Whether the last call's slots may differ from the model's own."""

    @property
    def routing_method_type(self) -> Any:
        """The model's own."""
        return self._inner.routing_method_type

    def _compute_routing(
        self,
        hidden_states: Tensor,
        router_logits: Tensor,
        indices_type: torch.dtype | None,
        *,
        input_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        weight_TK, index_TK = self._inner._compute_routing(
            hidden_states, router_logits, indices_type, input_ids=input_ids
        )
        context = get_forward_context() if is_forward_context_available() else None
        routing = Routing(router_logits, weight_TK, index_TK)
        pairs = self._engine.route(self._name, context, hidden_states, routing)
        self.acted = pairs is not None or self._engine.is_dummy
        if pairs is None:
            return weight_TK, index_TK
        weight_TS, index_TS = slots_of(pairs, index_TK.shape[0], index_TK.shape[1])
        return weight_TS.to(weight_TK.dtype), index_TS.to(index_TK.dtype)

    @torch.no_grad()
    def probe(self) -> Routing | None:
        """What the router says about logits drawn at random; None where it cannot be asked before a forward."""
        generator = torch.Generator().manual_seed(0)
        device = torch.get_default_device()
        logits_TE = torch.randn(NUM_TOKENS, self.global_num_experts, generator=generator, device="cpu")
        logits_TE = (logits_TE.float() * LOGIT_STD).to(device)
        hidden_TH = torch.zeros(NUM_TOKENS, self._hidden_size, device=device)
        try:
            weight_TK, index_TK = self._inner._compute_routing(
                hidden_TH, logits_TE, None, input_ids=torch.arange(NUM_TOKENS, device=device)
            )
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError):
            return None
        return Routing(logits_TE, weight_TK, index_TK.long())


class EvenMoERunner(MoERunner):  # type: ignore[misc]
    """vLLM's runner with a PolicyRouter; vLLM's own where nothing is configured."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        engine = engine_of(get_current_vllm_config())
        self._is_ours = engine is not None
        if engine is not None:
            name, inner = kwargs["layer_name"], kwargs["router"]
            method = kwargs["routed_experts"].quant_method
            check_experts(name, type(method).__name__, isinstance(method, CompactedMoEMethod))
            check_router(name, inner)
            router = PolicyRouter(inner, name, engine, kwargs["moe_config"].hidden_dim)
            engine.add_layer(name, inner.global_num_experts, inner.top_k, router.probe)
            kwargs["router"] = method.router = router
        super().__init__(*args, **kwargs)

    def _select_forward(self) -> Any:
        """An opaque operator, so that compilation does not look into the policy."""
        if not self._is_ours:
            return super()._select_forward()
        if self._shared_experts is None:
            return torch.ops.vllm.moe_forward
        return torch.ops.vllm.moe_forward_shared


class CompactedMoEMethod(UnquantizedFusedMoEMethod):  # type: ignore[misc]
    """Experts that are called with one row for each pair that runs here, so that no kernel sees an empty slot.

    Under expert parallelism a rank runs the pairs of its own experts alone. vLLM's own where nothing is configured.
    """

    router: PolicyRouter | None = None
    """The router whose slots come; None where nothing is configured."""

    def apply(
        self,
        layer: Any,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: Any = None,
        shared_experts_input: Tensor | None = None,
    ) -> Any:
        """The experts' output [T, H], summed over each token's pairs."""
        if self.router is None or (layer.expert_map is None and not self.router.acted):
            return super().apply(layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)
        own_TS = topk_ids if layer.expert_map is None else own_experts(topk_ids, layer.expert_map)
        token_P, slot_P = (own_TS >= 0).nonzero(as_tuple=True)
        out_TH = torch.zeros_like(x, dtype=torch.float32)
        if token_P.numel():
            # The kernel of the CPU takes a rank's own numbers of its experts, those of GPUs map them themselves.
            index_TS = own_TS if x.device.type == "cpu" else topk_ids
            rows_PH = super().apply(
                layer,
                x[token_P],
                topk_weights[token_P, slot_P].unsqueeze(1).contiguous(),
                index_TS[token_P, slot_P].unsqueeze(1).contiguous(),
                shared_experts,
                shared_experts_input,
            )
            out_TH.index_add_(0, token_P, rows_PH.float())
        return out_TH.to(x.dtype)

    def apply_monolithic(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """vLLM's own where nothing is configured; otherwise refused: such a kernel routes by itself."""
        if self.router is not None:
            raise UnsupportedModelError(
                f"{type(self.moe_kernel).__name__}: experts and routing are one kernel here, which evenmoe cannot "
                "hook; choose another with vLLM's --moe-backend"
            )
        return super().apply_monolithic(layer, *args, **kwargs)


class LastLayer(LogitsProcessor):  # type: ignore[misc]
    """vLLM's logits layer, the last that a model builds: by then every MoE layer must be known."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = get_current_vllm_config()
        engine = engine_of(config)
        if engine is not None:
            known = config.compilation_config.static_forward_context
            names = config.compilation_config.static_all_moe_layers
            runners = {name: type(known[name]).__name__ for name in names}
            check_layers(config.model_config.model, runners, engine.layer_names)
            engine.start()


REPLACED = {
    MoERunner: EvenMoERunner,
    UnquantizedFusedMoEMethod: CompactedMoEMethod,
    LogitsProcessor: LastLayer,
}
"""vLLM's classes, and what is built in the place of each."""
