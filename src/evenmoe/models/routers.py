"""Routers: what a router's output says, whatever the order in which it says it.

Shape letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from evenmoe.models.sites import Site


@dataclass(frozen=True, eq=False)
class Routing:
    """What a router said about some tokens: logits [T, E], top-k weights and experts [T, K]."""

    logits_TE: Tensor
    weight_TK: Tensor
    index_TK: Tensor


def logits_of(output: Any, site: Site) -> Tensor:
    """Return the logits [T, E] in a router's output.

    transformers 5.23 returns (logits, weights, index); a few routers of earlier versions return the logits last, or
    alone.
    """
    if isinstance(output, Tensor):
        return output.reshape(-1, output.shape[-1])
    if site.kind == "jetmoe":
        logits: Tensor = output[4]
    elif site.kind == "llama4":
        logits = output[1]
    else:
        logits = max(
            (part for part in output[:3] if part.is_floating_point()), key=lambda part: part.shape[-1]
        )
    return logits.reshape(-1, logits.shape[-1])


def read_router(output: Any, site: Site, hidden: Tensor) -> Routing:
    """Return a router's output as a Routing, working out the top-k as the model does where it is not told."""
    logits_TE = logits_of(output, site)
    if isinstance(output, Tensor):
        return _routed_by_block(logits_TE, site, hidden)
    if site.kind == "llama4":
        index_TK = logits_TE.topk(site.top_k, dim=1).indices
        return Routing(logits_TE, output[0].gather(1, index_TK), index_TK)
    if site.kind == "jetmoe":
        top_TK, index_TK = logits_TE.topk(site.top_k, dim=1)
        return Routing(logits_TE, top_TK.softmax(dim=1).type_as(output[2]), index_TK)
    index_TK = next(part for part in output[:3] if not part.is_floating_point())
    weights = [part for part in output[:3] if part.is_floating_point() and part.shape == index_TK.shape]
    return Routing(logits_TE, weights[-1], index_TK)


def _routed_by_block(logits_TE: Tensor, site: Site, hidden: Tensor) -> Routing:
    """The router is a plain linear layer, and the block chooses (dbrx)."""
    block: Any = site.block
    given = {"router_logits": logits_TE, "hidden_states": hidden.reshape(-1, hidden.shape[-1])}
    names = inspect.signature(block.route_tokens_to_experts).parameters
    first, second = block.route_tokens_to_experts(*(given[name] for name in names))
    weight_TK, index_TK = (first, second) if first.is_floating_point() else (second, first)
    return Routing(logits_TE, weight_TK, index_TK)
