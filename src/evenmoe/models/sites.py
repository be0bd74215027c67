"""Sites: the places in a model where tokens meet routed experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.architectures import (
    ARCHITECTURES,
    Kind,
    architecture_name,
    check_supported,
    supported_names,
)

_ROUTER_NAMES = ("gate", "router")
_LEFT_ALONE = ("JetMoeMoA", "Dots3NoteVisionMoE")
"""Routed, yet not hooked: jetmoe's attention needs all of its slots, dots3_note's image encoder has no text tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One MoE layer: its block, its router, its experts, and their sizes.

    num_experts counts the experts that cost something; num_free_experts the identity experts after them.
    experts is None where no single module runs them (jetmoe).
    """

    name: str
    architecture: str
    kind: Kind
    block: nn.Module
    router: nn.Module
    experts: nn.Module | None
    num_experts: int
    num_free_experts: int
    top_k: int


def find_sites(model: nn.Module) -> tuple[Site, ...]:
    """Return the MoE layers of a model in the order of its modules.

    Raises UnsupportedModelError for a model without any, or with layers of a kind that cannot be hooked.
    """
    check_supported(model)
    sites = tuple(_sites(model))
    if not sites:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no mixture-of-experts layer: there is nothing to attach to. "
            f"Supported architectures: {supported_names()}."
        )
    return sites


def left_alone(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the routed blocks that are not hooked."""
    return tuple(name for name, block in model.named_modules() if type(block).__name__ in _LEFT_ALONE)


def _sites(model: nn.Module) -> Iterator[Site]:
    for name, block in model.named_modules():
        if type(block).__name__ in _LEFT_ALONE:
            continue
        router = _child(block, *_ROUTER_NAMES)
        if router is None:
            continue
        architecture = architecture_name(block)
        if architecture == "jetmoe" and _child(block, "input_linear") is not None:
            yield _site(name, architecture, block, router, None)
            continue
        experts = _child(block, "experts")
        if isinstance(experts, nn.ModuleList):
            raise UnsupportedModelError(
                f"{name} ({type(block).__name__}) holds its experts as a list of modules; evenmoe needs the fused "
                "experts of transformers 5. Load the model with its own classes (trust_remote_code=False)."
            )
        if experts is not None:
            yield _site(name, architecture, block, router, experts)


def _child(block: nn.Module, *names: str) -> nn.Module | None:
    for name in names:
        child = getattr(block, name, None)
        if isinstance(child, nn.Module):
            return child
    return None


def _site(
    name: str, architecture: str, block: nn.Module, router: nn.Module, experts: nn.Module | None
) -> Site:
    known = ARCHITECTURES.get(architecture)
    kind: Kind = known.kind if known is not None else "contract"
    num_experts = _integer("num_experts", name, router, experts)
    num_free = 0
    if kind == "longcat":
        num_experts = _integer("num_routed_experts", name, experts)
        num_free = _integer("total_experts", name, experts) - num_experts
    return Site(
        name=name,
        architecture=architecture,
        kind=kind,
        block=block,
        router=router,
        experts=experts,
        num_experts=num_experts,
        num_free_experts=num_free,
        top_k=_top_k(name, router, block),
    )


def _integer(attribute: str, name: str, *owners: object) -> int:
    for owner in owners:
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            return value
    raise UnsupportedModelError(f"{name}: neither its router nor its experts say `{attribute}`")


def _top_k(name: str, router: nn.Module, block: nn.Module) -> int:
    config = getattr(router, "config", None)
    owners = ((router, "top_k"), (block, "top_k"), (config, "top_k_experts"), (config, "num_experts_per_tok"))
    for owner, attribute in owners:
        value = getattr(owner, attribute, None)
        if isinstance(value, int):
            return value
    raise UnsupportedModelError(
        f"{name}: neither its router nor its block says how many experts a token gets (`top_k`)"
    )
