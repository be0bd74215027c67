"""The language-model head and its loss in one pass: no logits are kept, each is computed once.

Shape letters: T tokens, H hidden, V vocabulary.
"""

from typing import Any

import torch

_ROWS_PER_CHUNK = 1024


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T`; the gradients are made on the way forward, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor
    ) -> torch.Tensor:
        num_tokens = len(targets_T)
        grad_hidden_TH, grad_weight_VH = torch.empty_like(hidden_TH), torch.zeros_like(weight_VH)
        loss = hidden_TH.new_zeros(())
        for start in range(0, num_tokens, _ROWS_PER_CHUNK):
            rows = slice(start, start + _ROWS_PER_CHUNK)
            targets = targets_T[rows, None]
            logits_TV = hidden_TH[rows] @ weight_VH.mT
            grad_TV = torch.softmax(logits_TV, dim=-1)
            loss -= (grad_TV.gather(1, targets).clamp_min(1e-30)).log().sum()
            grad_TV.scatter_add_(1, targets, torch.full_like(targets, -1, dtype=grad_TV.dtype))
            torch.mm(grad_TV, weight_VH, out=grad_hidden_TH[rows])
            grad_weight_VH.addmm_(grad_TV.mT, hidden_TH[rows])
        ctx.save_for_backward(grad_hidden_TH.div_(num_tokens), grad_weight_VH.div_(num_tokens))
        return loss / num_tokens

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad_hidden_TH, grad_weight_VH = ctx.saved_tensors
        return grad_hidden_TH * grad, grad_weight_VH * grad, None


def head_loss(hidden_TH: torch.Tensor, weight_VH: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss in nats: [T, H], [V, H], [T] -> scalar."""
    loss: torch.Tensor = HeadLoss.apply(hidden_TH, weight_VH, targets_T)  # type: ignore[no-untyped-call]
    return loss
