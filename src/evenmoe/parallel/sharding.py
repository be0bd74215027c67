"""Sharding: each rank keeps the experts that a placement gives it. Shape letters: E experts, D devices, L layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from evenmoe.errors import AttachError, ConfigError, UnsupportedModelError, check_choice
from evenmoe.models.delivery import Form
from evenmoe.models.settings import PlacementRows, resolve_placement
from evenmoe.models.sites import Site, find_sites
from evenmoe.parallel.expert_parallel import ExpertParallel
from evenmoe.placement import Placement

if TYPE_CHECKING:
    from evenmoe.parallel.group import Group

_REFUSED = {
    "llama4": "its experts run every token they are given through all of them",
    "jetmoe": "it has no module that runs its experts",
    "longcat": "its identity experts are part of the module that runs the others",
}
_MARK = "_evenmoe_shard"


def shard(
    model: nn.Module,
    group: Group,
    *,
    placement: Placement | PlacementRows | None = None,
    form: Form = "data",
) -> ExpertParallel:
    """Keep only this rank's experts in `model`, in place, and return the parallelism to attach with.

    placement: which ranks hold each expert, or a file that says so; one layer stands for all. None cuts the experts
        into contiguous shares, the first (E mod D) ranks holding one more: E need not divide by D. A rank that holds
        nothing of a layer keeps one expert as a stand-in, which is never sent a row.
    form: "data": each rank has its own rows, and they are exchanged by all-to-all; "shared": every rank has the same
        batch, runs its experts' part, and an all-reduce adds the parts up.

    Afterwards the model runs only under `attach(..., parallel=)`, and only for inference: a bare call of its experts
    raises AttachError. Its routers still know all experts. Do not save it: a checkpoint would hold one rank's experts.
    Raises ConfigError for a form or placement that does not fit the group, and for a model that is sharded already;
    ShapeError for a placement that does not fit the model; UnsupportedModelError for layers that cannot be shared out.
    """
    check_choice("form", form, get_args(Form))
    sites = find_sites(model)
    for site in sites:
        _check_site(site, form)
    num_experts_L = tuple(site.num_experts for site in sites)
    _check_ranks(placement, num_experts_L, group.world_size)
    fitted = resolve_placement(placement, num_experts_L, group.world_size)
    marks = []
    for layer, site in enumerate(sites):
        own = torch.from_numpy(fitted.holds(layer)[group.rank]).nonzero().view(-1)
        marks.append(_keep_experts(site, own if own.numel() else torch.zeros(1, dtype=torch.long)))
    return ExpertParallel(group, fitted, form, num_experts_L, marks)


class ShardMark:
    """Set on experts that were sharded. `expected` is whether a delivery is about to call them."""

    expected = False


def _check_ranks(placement: object, num_experts_L: Sequence[int], num_ranks: int) -> None:
    if placement is None and num_ranks > min(num_experts_L):
        raise ConfigError(
            "world_size",
            num_ranks,
            f"at most the {min(num_experts_L)} experts of a layer, unless placement says which ranks hold them",
        )
    if isinstance(placement, Placement) and placement.num_devices != num_ranks:
        raise ConfigError(
            "placement", f"for {placement.num_devices} devices", f"one for the {num_ranks} ranks of the group"
        )


def _check_site(site: Site, form: Form) -> None:
    """Raise unless the site's experts can be shared out."""
    what = f"{site.name} ({site.architecture}) cannot be shared out over ranks"
    if site.kind in _REFUSED:
        raise UnsupportedModelError(f"{what}: {_REFUSED[site.kind]}")
    if site.kind == "ernie_vl" and form == "data":
        raise UnsupportedModelError(
            f'{what} in form "data": its experts for images are called only where there are images, so ranks with '
            'texts alone would not meet the others; form "shared" works'
        )
    assert site.experts is not None
    if hasattr(site.experts, _MARK):
        raise ConfigError("model", type(site.block).__name__, f"one that is not sharded yet; {site.name} is")
    if "forward" in vars(site.experts):
        raise UnsupportedModelError(
            f"{what}: its forward was replaced, as transformers' own expert parallelism and offloading do"
        )
    for name, _, tensor in _tensors(site):
        if isinstance(getattr(site.experts, "parametrizations", None), nn.Module) or not _is_plain(tensor):
            raise UnsupportedModelError(
                f"{what}: {name} is quantised, distributed or not loaded. Load the model in floating point to shard it."
            )
        if tensor.shape[0] % site.num_experts or (
            site.kind != "dbrx" and tensor.shape[0] != site.num_experts
        ):
            raise UnsupportedModelError(
                f"{what}: {name} has shape {tuple(tensor.shape)}, not one entry for each of {site.num_experts} experts"
            )


def _tensors(site: Site) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield (name, owner, tensor) of what holds the experts' weights; a norm that all experts share does not."""
    assert site.experts is not None
    for owner in site.experts.modules():
        held = [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]
        for name, tensor in held:
            if owner is site.experts or tensor.dim() > 1:
                yield name, owner, tensor


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_meta and type(tensor) in (Tensor, nn.Parameter)


def _keep_experts(site: Site, own: Tensor) -> ShardMark:
    """Keep the experts `own` of a site, guard its forward, and return its mark."""
    experts: Any = site.experts
    for name, owner, tensor in list(_tensors(site)):
        by_expert = tensor.detach().view(site.num_experts, -1, *tensor.shape[1:])
        kept = by_expert.index_select(0, own.to(tensor.device)).flatten(0, 1)
        if isinstance(tensor, nn.Parameter):
            setattr(owner, name, nn.Parameter(kept, requires_grad=tensor.requires_grad))
        else:
            owner._buffers[name] = kept
    for owner in experts.modules():
        for name in ("num_experts", "moe_num_experts"):
            if getattr(owner, name, None) == site.num_experts:
                setattr(owner, name, own.numel())
    mark = ShardMark()
    setattr(experts, _MARK, mark)
    experts.forward = MethodType(_guarded_forward, experts)
    return mark


def _guarded_forward(experts: Any, *args: Any, **kwargs: Any) -> Any:
    """The experts' own forward, which knows local experts only: a call without a delivery before it is refused."""
    mark: ShardMark = getattr(experts, _MARK)
    if not mark.expected:
        raise AttachError(
            "the experts of this model are shared out over ranks: use it under evenmoe.attach(..., parallel=...)"
        )
    mark.expected = False
    return type(experts).forward(experts, *args, **kwargs)
