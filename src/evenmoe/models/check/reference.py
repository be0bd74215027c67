"""The reference: the plain model with the weights of dropped pairs set to 0. It saves nothing and is easy to trust.

It shares no code with packing: it takes the kept pairs as given and edits the weights that transformers computed.
Shape letters: T tokens, E experts, K top-k, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.models.session import LayerStep
from evenmoe.models.sites import Site, find_sites


@contextmanager
def zeroed(model: nn.Module, steps: list[LayerStep]) -> Iterator[None]:
    """Within the block, each MoE layer gives weight 0 to what the recorded `steps` dropped, one step to a call.

    Where all tokens' top-k weights have the same sum, the architecture normalises them, and so the kept ones are
    scaled up to that sum again.
    """
    waiting = {step.name: [s.kept_TE for s in steps if s.name == step.name] for step in steps}
    handles = [_hook(site, waiting[site.name]) for site in find_sites(model) if site.name in waiting]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_calls(site: Site, record: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Within the block, call `record` with the layer's name and the arguments that its experts are really given."""
    assert site.experts is not None
    handle = site.experts.register_forward_pre_hook(lambda _module, args: record(site.name, args))
    try:
        yield
    finally:
        handle.remove()


def _hook(site: Site, waiting: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    if site.kind == "jetmoe":
        return site.router.register_forward_hook(
            lambda _module, _args, output: _jetmoe(output, waiting.pop(0))
        )
    assert site.experts is not None
    if site.kind == "llama4":
        return site.experts.register_forward_pre_hook(lambda _module, args: _llama4(args, waiting.pop(0)))
    scale_E = getattr(site.router, "per_expert_scale", None)
    return site.experts.register_forward_pre_hook(
        lambda _module, args: _contract(args, waiting.pop(0), scale_E)
    )


def _contract(args: Any, kept_TE: Tensor, scale_E: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    hidden, index_TK, weight_TK = args
    free_TE = torch.ones(kept_TE.shape[0], int(index_TK.max()) + 1, dtype=torch.bool)
    free_TE[:, : kept_TE.shape[1]] = kept_TE[:, : free_TE.shape[1]]  # identity experts are never dropped
    scale_TK = torch.ones_like(weight_TK) if scale_E is None else scale_E[index_TK]
    kept_TK = free_TE.gather(1, index_TK)
    return hidden, index_TK, _drop(weight_TK / scale_TK, kept_TK) * scale_TK


def _llama4(args: Any, kept_TE: Tensor) -> tuple[Tensor]:
    (weighted,) = args  # [E * T, H], already multiplied by the weights; the experts have no bias
    return (torch.where(kept_TE.T.reshape(-1, 1), weighted, 0.0),)


def _jetmoe(output: Any, kept_TE: Tensor) -> Any:
    order, token_P, gate_P, load_E, logits_TE = output
    expert_P = torch.arange(logits_TE.shape[1]).repeat_interleave(torch.as_tensor(load_E))
    gate_TE = torch.zeros_like(logits_TE).index_put((token_P, expert_P), gate_P)
    gate_TE = torch.where(kept_TE, gate_TE, 0.0)
    gate_TE = gate_TE / gate_TE.sum(1, keepdim=True).clamp(min=1e-20)
    return order, token_P, gate_TE[token_P, expert_P], load_E, logits_TE


def _drop(weight_TK: Tensor, kept_TK: Tensor) -> Tensor:
    kept_weight_TK = torch.where(kept_TK, weight_TK, 0.0)
    total_T1 = weight_TK.sum(1, keepdim=True)
    normalised = bool((total_T1 / total_T1.mean() - 1).abs().max() < 1e-4)
    if not normalised:
        return kept_weight_TK
    share_T1 = kept_weight_TK.sum(1, keepdim=True) / total_T1
    return torch.where(share_T1 < 1, kept_weight_TK / share_T1.clamp(min=1e-20), kept_weight_TK)
