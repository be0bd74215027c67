"""A quick experts function for training on a CPU: pairs sorted by expert, one product per expert.

Same result as the stock implementations of transformers; about the arithmetic alone in time, where autograd's
own slicing of the 3-D weights would fill a whole gradient tensor with zeros for each expert.

Shape letters: T tokens, E experts, K top-k, H hidden, I expert inner, P = T * K pairs sorted by expert.
"""

from itertools import pairwise
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

NAME = "sorted_mm"


class SortedExperts(torch.autograd.Function):
    """Gated SiLU experts over sorted pairs, with a hand-written backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: torch.Tensor,
        ids_TK: torch.Tensor,
        weights_TK: torch.Tensor,
        gate_up_E2IH: torch.Tensor,
        down_EHI: torch.Tensor,
    ) -> torch.Tensor:
        num_slots = ids_TK.shape[1]
        order_P = torch.argsort(ids_TK.reshape(-1), stable=True)
        bounds = [0, *torch.bincount(ids_TK.reshape(-1), minlength=len(down_EHI)).cumsum(0).tolist()]
        hidden_PH = hidden_TH[order_P // num_slots]
        gate_up_P2I = _expert_products(hidden_PH, gate_up_E2IH.mT, bounds)
        gate_PI, up_PI = gate_up_P2I.chunk(2, dim=-1)
        out_PH = _expert_products(torch.nn.functional.silu(gate_PI) * up_PI, down_EHI.mT, bounds)
        ctx.bounds, ctx.num_slots = bounds, num_slots
        ctx.save_for_backward(order_P, hidden_PH, gate_up_P2I, out_PH, weights_TK, gate_up_E2IH, down_EHI)
        weighted_PH = out_PH * weights_TK.reshape(-1)[order_P, None]
        return _sum_slots(weighted_PH, order_P, num_slots)

    @staticmethod
    def backward(ctx: Any, grad_TH: torch.Tensor) -> Any:
        order_P, hidden_PH, gate_up_P2I, out_PH, weights_TK, gate_up_E2IH, down_EHI = ctx.saved_tensors
        grad_PH = grad_TH[order_P // ctx.num_slots]
        grad_weights_TK = torch.empty_like(weights_TK)
        grad_weights_TK.view(-1)[order_P] = (grad_PH * out_PH).sum(-1)
        grad_PH *= weights_TK.reshape(-1)[order_P, None]
        gate_PI, up_PI = gate_up_P2I.chunk(2, dim=-1)
        sigmoid_PI = torch.sigmoid(gate_PI)
        silu_PI = gate_PI * sigmoid_PI
        grad_down_EHI = _weight_gradients(grad_PH, silu_PI * up_PI, down_EHI, ctx.bounds)
        grad_inner_PI = _expert_products(grad_PH, down_EHI, ctx.bounds)
        slope_PI = sigmoid_PI * (1 + gate_PI - silu_PI)
        grad_gate_up_P2I = torch.cat([grad_inner_PI * up_PI * slope_PI, grad_inner_PI * silu_PI], dim=-1)
        grad_gate_up_E2IH = _weight_gradients(grad_gate_up_P2I, hidden_PH, gate_up_E2IH, ctx.bounds)
        grad_hidden_PH = _expert_products(grad_gate_up_P2I, gate_up_E2IH, ctx.bounds)
        grad_hidden_TH = _sum_slots(grad_hidden_PH, order_P, ctx.num_slots)
        return grad_hidden_TH, None, grad_weights_TK, grad_gate_up_E2IH, grad_down_EHI


def _expert_products(rows_PX: torch.Tensor, matrices_EXY: torch.Tensor, bounds: list[int]) -> torch.Tensor:
    out_PY = rows_PX.new_empty(len(rows_PX), matrices_EXY.shape[2])
    for e, (start, stop) in enumerate(pairwise(bounds)):
        torch.mm(rows_PX[start:stop], matrices_EXY[e], out=out_PY[start:stop])
    return out_PY


def _weight_gradients(
    grad_PX: torch.Tensor, rows_PY: torch.Tensor, weight_EXY: torch.Tensor, bounds: list[int]
) -> torch.Tensor:
    out_EXY = torch.empty_like(weight_EXY)
    for e, (start, stop) in enumerate(pairwise(bounds)):
        torch.mm(grad_PX[start:stop].mT, rows_PY[start:stop], out=out_EXY[e])
    return out_EXY


def _sum_slots(rows_PH: torch.Tensor, order_P: torch.Tensor, num_slots: int) -> torch.Tensor:
    unsorted_PH = torch.empty_like(rows_PH)
    unsorted_PH[order_P] = rows_PH
    return unsorted_PH.view(-1, num_slots, rows_PH.shape[1]).sum(1)


def sorted_experts_forward(
    experts: torch.nn.Module, hidden_TH: torch.Tensor, ids_TK: torch.Tensor, weights_TK: torch.Tensor
) -> torch.Tensor:
    """The function that transformers calls for each MoE layer: [T, H], [T, K], [T, K] -> [T, H]."""
    out: torch.Tensor = SortedExperts.apply(  # type: ignore[no-untyped-call]
        hidden_TH, ids_TK, weights_TK, experts.gate_up_proj, experts.down_proj
    )
    return out


def register_sorted_experts() -> str:
    """Make the function known to transformers; return the name to pass to `set_experts_implementation`."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, sorted_experts_forward)
    return NAME
