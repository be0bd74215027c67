"""The weights of substitutes, against the router itself asked for all experts instead of its top-k.

Shape letters: T tokens, E experts, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.models.catalog import CATALOG
from evenmoe.models.check.case import Case, logits_of
from evenmoe.models.check.reference import recorded_calls
from evenmoe.models.check.result import CheckFailure, NotApplicable
from evenmoe.models.session import LayerStep
from evenmoe.models.sites import Site, find_sites
from evenmoe.routing import Fill

RELATIVE_TOLERANCE = 1e-3


def substitute_weights(case: Case) -> str:
    """Within a token, the experts' weights under Fill have the ratios of the weights that the router would give."""
    if not CATALOG[case.model_type].true_scores:
        raise NotApplicable("the scores outside its top-k are not known")
    sites = {site.name: site for site in find_sites(case.model) if _asks_for_all(site)}
    if not sites:
        raise NotApplicable("its router cannot be asked for all experts")
    weights: dict[str, Tensor] = {}
    router_calls: dict[str, tuple[Any, Any]] = {}

    def record(name: str, args: tuple[Any, ...]) -> None:
        weights[name] = args[2]

    with case.attached(Fill(gamma=1.0)) as steps, ExitStack() as stack:
        for site in sites.values():
            stack.enter_context(recorded_calls(site, record))
            stack.enter_context(_recorded_router(site, router_calls))
        logits_of(case.model, case.inputs)
    checked = sum(
        _check(step, weights[step.name], _all_weights(sites[step.name], *router_calls[step.name]))
        for step in steps
        if step.name in sites and not torch.equal(step.kept_TE, step.chosen_TE)
    )
    if checked == 0:
        raise CheckFailure("no substitute was taken, so nothing was shown")
    return f"{checked} substitutes"


def _asks_for_all(site: Site) -> bool:
    return site.kind in ("contract", "ernie_vl") and site.top_k > 1 and hasattr(site.router, "top_k")


@contextmanager
def _recorded_router(site: Site, calls: dict[str, tuple[Any, Any]]) -> Iterator[None]:
    def record(_module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[site.name] = (args, kwargs)

    handle = site.router.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _all_weights(site: Site, args: Any, kwargs: Any) -> Tensor:
    """Return [T, E]: the router's weights had it chosen every expert."""
    top_k = site.router.top_k
    site.router.top_k = site.num_experts  # type: ignore[assignment]
    try:
        with torch.inference_mode():
            first, weight_TE, last = site.router(*args, **kwargs)[:3]
    finally:
        site.router.top_k = top_k
    index_TE = (
        last if first.is_floating_point() else first
    )  # some put the index first, before transformers 5.21
    if index_TE.shape[1] != site.num_experts:
        raise NotApplicable("its router cannot be asked for all experts")
    return torch.zeros_like(weight_TE).scatter(1, index_TE, weight_TE)


def _check(step: LayerStep, weight_P1: Tensor, all_TE: Tensor) -> int:
    """Compare one layer's pairs; return how many of them are substitutes."""
    token_P, expert_P = step.kept_TE.nonzero(as_tuple=True)
    ratio_TE = torch.full_like(all_TE, torch.nan)
    ratio_TE[token_P, expert_P] = weight_P1.reshape(-1) / all_TE[token_P, expert_P]
    ratio_TE[all_TE == 0] = torch.nan  # an expert of a group that the router ruled out
    mean_T1 = ratio_TE.nanmean(1, keepdim=True)
    worst = float((ratio_TE / mean_T1 - 1).abs().nan_to_num(0.0).max())
    if not worst < RELATIVE_TOLERANCE:
        raise CheckFailure(f"{step.name}: a substitute's weight is off by a factor of {1 + worst:.3g}")
    return int((step.kept_TE & ~step.chosen_TE & ~ratio_TE.isnan()).sum())
