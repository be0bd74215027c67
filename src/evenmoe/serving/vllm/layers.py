"""The two classes that vLLM builds instead of its own: a runner whose router asks the policy, and compacted experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.model_executor.layers.fused_moe.router.base_router import BaseRouter
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

from evenmoe.serving.vllm.engine import Engine, engine_of, slots
from evenmoe.serving.vllm.settings import settings_of


class PolicyRouter(BaseRouter):  # type: ignore[misc]
    """The model's own router, whose choice the policy then has a say in. A dropped slot has expert -1, weight 0."""

    def __init__(self, inner: BaseRouter, name: str, engine: Engine) -> None:
        super().__init__(inner.top_k, inner.global_num_experts, inner.eplb_state)
        self._inner, self._name, self._engine = inner, name, engine

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
        pairs = self._engine.route(self._name, hidden_states, router_logits, weight_TK, index_TK)
        if pairs is None:
            return weight_TK, index_TK
        weight_TS, index_TS = slots(pairs, index_TK.shape[0], index_TK.shape[1])
        return weight_TS.to(weight_TK.dtype), index_TS.to(index_TK.dtype)


class EvenMoERunner(MoERunner):  # type: ignore[misc]
    """vLLM's runner with a PolicyRouter; vLLM's own where nothing is configured."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = get_current_vllm_config()
        settings = settings_of(config)
        self._is_ours = settings is not None
        if settings is not None:
            inner, name = kwargs["router"], kwargs["layer_name"]
            engine = engine_of(config, settings.routing)
            engine.add_layer(name, inner.global_num_experts, inner.top_k)
            kwargs["router"] = PolicyRouter(inner, name, engine)
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

    Under expert parallelism a rank runs the pairs of its own experts alone.
    """

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
        own_TS = _own_experts(topk_ids, layer.expert_map)
        runs_TS = own_TS >= 0
        if own_TS is topk_ids and bool(runs_TS.all()):
            return super().apply(layer, x, topk_weights, topk_ids, shared_experts, shared_experts_input)
        token_P, slot_P = runs_TS.nonzero(as_tuple=True)
        out_TH = torch.zeros_like(x, dtype=torch.float32)
        if token_P.numel():
            rows_PH = super().apply(
                layer,
                x[token_P],
                topk_weights[token_P, slot_P].unsqueeze(1).contiguous(),
                own_TS[token_P, slot_P].unsqueeze(1).contiguous(),
                shared_experts,
                shared_experts_input,
            )
            out_TH.index_add_(0, token_P, rows_PH.float())
        return out_TH.to(x.dtype)


def _own_experts(index_TS: Tensor, local_of_expert_E: Tensor | None) -> Tensor:
    """Return the experts as this rank numbers them, -1 where it does not hold one or the slot is empty."""
    if local_of_expert_E is None:
        return index_TS
    local_TS = local_of_expert_E[index_TS.clamp(min=0).long()]
    return torch.where(index_TS >= 0, local_TS, index_TS).to(index_TS.dtype)
