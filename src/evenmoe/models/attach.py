"""attach: apply a routing policy to the MoE layers of a Hugging Face model, and count their loads."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import nn

from evenmoe.errors import AttachError, ConfigError
from evenmoe.models.architectures import stated_rule
from evenmoe.models.attached import Attached, is_attached
from evenmoe.models.delivery import Parallel
from evenmoe.models.layer import MoELayer, unconfirmed
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.probe import confirm
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.session import Session
from evenmoe.models.settings import (
    AttachSettings,
    Phases,
    PlacementRows,
    Split,
    check_images,
    resolve_labels,
    resolve_placement,
)
from evenmoe.models.sites import Site, find_sites
from evenmoe.placement import Placement
from evenmoe.routing.expanded_drop import ExpandedDrop
from evenmoe.routing.policy import Policy

logger = logging.getLogger(__name__)


def attach(
    model: nn.Module,
    policy: Policy,
    *,
    num_devices: int = 1,
    placement: Placement | PlacementRows | None = None,
    parallel: Parallel | None = None,
    min_tokens: int | None = None,
    phases: Phases = "both",
    seed: int = 0,
    pad_token_id: int | None = None,
    split: Split = "none",
) -> Attached:
    """Apply `policy` to every MoE layer of `model` until detached; use it with `with`, or call `.detach()`.

    num_devices: virtual expert-parallel devices. The rows of a batch go to them as whole requests, contiguous and
        as even as possible; `Attached.assign` overrides that.
    placement: a Placement, a file of one (`evenmoe place`), or the device of each expert, [E] for all layers or [L][E];
        None cuts the experts into contiguous shares.
    parallel: experts shared out over processes, from `evenmoe.parallel.shard`; it brings the devices and the placement.
        `loads` then counts the tokens of this process; `evenmoe.parallel.gather_loads` those of all.
    min_tokens: the least real tokens of a call, on all devices, for the policy to act; None: E / K of the layer for
        each device that capacity is counted on (all of them with scope "local", else one), so that an expert's even
        share is at least one token. Calls that pass untouched are counted all the same.
    phases: act on "prefill", on "decode" (one new token per row on a filled KV cache), or on "both".
    seed: for policies that draw at random; each forward and layer draws anew, the same from the same seed.
    pad_token_id: the id that marks padding where a forward is given no attention mask; None: the one of the model's
        configuration; -1: none. (lm-eval pads with id 0.)
    split: "modality" counts image and text tokens apart: `loads` then has the tags "image" and "text", or within
        `tagged` "name/image" and "name/text" (see evenmoe.loads.modality).

    Padding is not routed, counted or given room. Weights are renormalised over a token's kept experts if and only
    if the architecture renormalises its top-k. Substitutes of Expanded Drop and Fill are scored by the router's own
    score function. Known limits: they do not respect a selection bias, a group limit, or a hash table that the
    router selects by; inkling's weights, normalised together with its shared experts, are left as they are;
    gradient checkpointing in training runs layers a second time, outside the forward, and is not supported.

    Raises UnsupportedModelError for a model without MoE layers, of an architecture that cannot be hooked, or whose
    scores cannot be told where the policy needs them; AttachError if already attached; ConfigError and ShapeError
    for options that cannot act.
    """
    if not isinstance(policy, Policy):
        raise ConfigError("policy", policy, "a policy of evenmoe.routing, such as TokenDrop(gamma=1.5)")
    sites = find_sites(model)
    if is_attached(sites):
        raise AttachError("the model already has a policy attached: detach it first")
    if parallel is not None:
        sites = _sharded(sites, parallel, num_devices, placement)
        num_devices, placement = parallel.num_devices, parallel.placement
    settings = AttachSettings(
        num_devices=num_devices,
        min_tokens=min_tokens,
        phases=phases,
        seed=seed,
        pad_token_id=pad_token_id,
        split=split,
    )
    resolved = resolve_placement(placement, [site.num_experts for site in sites], num_devices)
    if placement is not None:
        settings = dataclasses.replace(settings, placement=resolved)
    tokens = SpecialTokens.of(model, pad_token_id)
    check_images(policy, split, tokens)
    if isinstance(policy, ExpandedDrop) and num_devices == 1:
        logger.warning("expanded_drop on one device: every expert is local, which is expert-choice routing")
    recorder = LoadRecorder(sites, resolved, keeps_steps=parallel is not None)
    labels = resolve_labels(policy, [site.name for site in sites], [site.num_experts for site in sites])
    session = Session(policy, settings, recorder, parallel, labels)
    layers = []
    for index, site in enumerate(sites):
        stated = stated_rule(site.architecture, site.router, site.block)
        layers.append(MoELayer(index, site, confirm(site, stated, _dtype(model)), session))
    for layer in layers:
        if policy.needs_true_scores and layer.checked and layer.rule is None:
            raise unconfirmed(layer.site, policy.name)
    return Attached(model, session, layers, tokens)


def _sharded(
    sites: Sequence[Site],
    parallel: Parallel,
    num_devices: int,
    placement: Placement | PlacementRows | None,
) -> tuple[Site, ...]:
    """Return the sites with the number of experts that they have on all ranks together."""
    if num_devices not in (1, parallel.num_devices):
        raise ConfigError(
            "num_devices", num_devices, f"the {parallel.num_devices} ranks of parallel, or left out"
        )
    if placement is not None:
        raise ConfigError("placement", "given", "left out with parallel, which has its own")
    if len(parallel.num_experts_L) != len(sites):
        raise ConfigError(
            "parallel", f"for {len(parallel.num_experts_L)} MoE layers", f"one for {len(sites)}"
        )
    return tuple(
        dataclasses.replace(site, num_experts=num_experts)
        for site, num_experts in zip(sites, parallel.num_experts_L, strict=True)
    )


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
