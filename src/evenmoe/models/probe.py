"""Probe: run a router on small fixed inputs to check what is stated about its scores."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from evenmoe.models.architectures import ARCHITECTURES
from evenmoe.models.routers import Routing, logits_of, read_router
from evenmoe.models.scores import ScoreRule, explains, infer_rule
from evenmoe.models.sites import Site

NUM_TOKENS = 32
LOGIT_STD = 2.0
"""Spread that the probe's logits are scaled to: near-equal logits would not tell score functions apart."""


@dataclass(frozen=True)
class Confirmation:
    """The score rule in force for one layer: None if its weights are no known function of its logits.

    checked: False while the router could not be probed; the first forward then checks it.
    """

    rule: ScoreRule | None
    checked: bool


_LOG = logging.getLogger(__name__)


def confirm(site: Site, stated: ScoreRule | None, dtype: torch.dtype) -> Confirmation:
    """Check the stated rule on the site's router, and infer one where the statement fails or there is none."""
    if stated is None and site.architecture in ARCHITECTURES:  # stated to have no score function
        return Confirmation(None, checked=True)
    routing = probe(site, dtype)
    if routing is None:
        return Confirmation(stated, checked=False)
    return Confirmation(settle(stated, routing), checked=True)


def settle(stated: ScoreRule | None, routing: Routing) -> ScoreRule | None:
    """Return `stated` if it explains what the router said, else whatever rule does, else None."""
    seen = (routing.logits_TE, routing.weight_TK, routing.index_TK)
    if stated is None:
        return infer_rule(*seen)
    if explains(stated, *seen):
        return stated
    inferred = infer_rule(*seen)
    _LOG.warning("the router does not score as stated (%s); it scores as %s", stated, inferred)
    return inferred


def probe(site: Site, dtype: torch.dtype) -> Routing | None:
    """Return what the router says about fixed random hidden states; None if it cannot be called alone."""
    device = next((p.device for p in site.router.parameters()), torch.device("cpu"))
    width = _hidden_size(site.router)
    if width is None or device.type == "meta":
        return None
    hidden = torch.randn(NUM_TOKENS, width, generator=torch.Generator().manual_seed(0)).to(device)
    for shape in ((NUM_TOKENS, width), (2, NUM_TOKENS // 2, width)):
        for tried in dict.fromkeys((dtype, torch.float32)):
            try:
                return _spread_out(site, hidden.to(tried).view(shape))
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
                continue
    return None


@torch.no_grad()
def _spread_out(site: Site, hidden: Tensor) -> Routing:
    with _evaluating(site.router):
        extra = _extra_inputs(site, hidden)
        logits = logits_of(site.router(hidden.clone(), **extra), site)
        hidden = hidden * (LOGIT_STD / max(float(logits.float().std()), 1e-12))
        return read_router(site.router(hidden.clone(), **extra), site, hidden)


def _extra_inputs(site: Site, hidden: Tensor) -> dict[str, Tensor]:
    """Selection biases that the block holds and hands to its router; token ids for a router that looks them up."""
    extra: dict[str, Tensor] = {}
    for name in list(inspect.signature(site.router.forward).parameters)[1:]:
        held = getattr(site.block, name, None)
        if isinstance(held, Tensor):
            extra[name] = held
        elif name == "input_ids":
            extra[name] = torch.arange(NUM_TOKENS, device=hidden.device)
    return extra


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _hidden_size(router: nn.Module) -> int | None:
    for attribute in ("hidden_dim", "hidden_size", "input_size", "in_features"):
        value = getattr(router, attribute, None)
        if isinstance(value, int):
            return value
    weight = getattr(router, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2:
        return weight.shape[1]
    linears = [part.in_features for part in router.modules() if isinstance(part, nn.Linear)]
    return linears[0] if linears else None
