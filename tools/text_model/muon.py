"""Muon: momentum whose matrices are made orthogonal by Newton-Schulz steps, for batches of matrices too.

After Keller Jordan's Muon (2024). `torch.optim.Muon` takes 2-D parameters only; an MoE's experts are 3-D.
"""

from collections.abc import Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Push the singular values of each matrix [..., rows, columns] towards 1 (into about 0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x: torch.Tensor = (wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)).contiguous()
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[-2] > matrices.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal per matrix. A group's `num_blocks` cuts fused matrices along their rows.

    The update is scaled by sqrt(max(1, rows / columns)).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        num_steps: int,
        weight_decay: float,
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "num_steps": num_steps, "weight_decay": weight_decay, "num_blocks": 1,
        }  # fmt: skip
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: torch.nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        step = gradient.lerp(state["momentum"], group["momentum"])
        blocks = step.reshape(*step.shape[:-2], group["num_blocks"], -1, step.shape[-1])
        update = orthogonalise(blocks, group["num_steps"]).reshape(parameter.shape)
        scale = max(1.0, blocks.shape[-2] / blocks.shape[-1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)
