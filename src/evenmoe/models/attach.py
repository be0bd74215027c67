"""attach: apply a routing policy to the MoE layers of a Hugging Face model, and count their loads."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from evenmoe.errors import AttachError, ConfigError, UnsupportedModelError
from evenmoe.loads import ExpertLoads
from evenmoe.models.architectures import stated_rule
from evenmoe.models.batch import CallReader
from evenmoe.models.delivery import Parallel
from evenmoe.models.hooks import LayerHooks, hooks_for
from evenmoe.models.layer import MoELayer, unconfirmed
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.probe import confirm
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.session import LayerStep, Session
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
from evenmoe.models.stopwatch import Stopwatch
from evenmoe.placement import Placement
from evenmoe.routing.expanded_drop import ExpandedDrop
from evenmoe.routing.policy import Policy

logger = logging.getLogger(__name__)

_ATTACHED: WeakSet[nn.Module] = WeakSet()
"""The routers that an attachment is on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """What is known about one attached MoE layer.

    score: the score function in force, None where the router's weights stand in for scores.
    checked: whether the score rule has been checked against the router (else the first forward does it).
    """

    name: str
    architecture: str
    num_experts: int
    top_k: int
    score: str | None
    renormalise: str
    checked: bool


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
    if any(site.router in _ATTACHED for site in sites):
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


class Attached:
    """A policy on a model, made by `attach`. Leaving its `with` block, or `.detach()`, restores the model."""

    def __init__(
        self, model: nn.Module, session: Session, layers: Sequence[MoELayer], tokens: SpecialTokens
    ) -> None:
        self._model, self._session, self._layers = model, session, tuple(layers)
        self._hooks: list[LayerHooks] = [hooks_for(layer, model) for layer in layers]
        self._handles = [handle for hooks in self._hooks for handle in hooks.register()]
        for caller in _callers(model, layers):
            reader = CallReader(caller, tokens)
            self._handles.append(
                caller.register_forward_pre_hook(partial(self._enter, reader), with_kwargs=True)
            )
            self._handles.append(caller.register_forward_hook(self._leave, always_call=True))
        _ATTACHED.update(layer.site.router for layer in layers)

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.detach()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._session.policy

    @property
    def settings(self) -> AttachSettings:
        """The resolved options of `attach`."""
        return self._session.settings

    @property
    def attached(self) -> bool:
        """Whether the policy is still on the model."""
        return bool(self._handles)

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """What is known about each MoE layer."""
        return tuple(
            LayerInfo(
                name=layer.site.name,
                architecture=layer.site.architecture,
                num_experts=layer.site.num_experts,
                top_k=layer.site.top_k,
                score=layer.rule.function if layer.rule is not None else None,
                renormalise=layer.rule.renormalise if layer.rule is not None else "none",
                checked=layer.checked,
            )
            for layer in self._layers
        )

    @property
    def loads(self) -> ExpertLoads:
        """What the layers were asked to run and what they ran, since attaching or `reset_loads`."""
        return self._session.recorder.loads(source=type(self._model).__name__)

    @property
    def num_forwards(self) -> int:
        """Forwards so far. Draws at random go by it, so a run that goes on where another stopped sets it first."""
        return self._session.num_forwards

    @num_forwards.setter
    def num_forwards(self, number: int) -> None:
        self._session.num_forwards = number

    def reset_loads(self) -> None:
        """Forget the loads counted so far, tags included."""
        self._session.recorder.reset()

    def describe(self) -> dict[str, Any]:
        """Return the policy and the options as data, for results."""
        labels = self._session.expert_modality
        resolved = {} if labels is None else {"labels": labels.describe()}
        return self.policy.describe() | resolved | self.settings.describe()

    def detach(self) -> None:
        """Take the policy off the model, which then is exactly as before. Loads stay readable.

        Raises AttachError if it is already off.
        """
        if not self._handles:
            raise AttachError("the policy is already detached")
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for layer in self._layers:
            _ATTACHED.discard(layer.site.router)

    @contextmanager
    def tagged(self, tags: Sequence[str]) -> Iterator[None]:
        """Within the block, count each row of a batch under its tag too: one tag per row.

        A forward of another number of rows raises ShapeError.
        """
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise ConfigError("tags", tags, "a sequence of names, one per row of the batch")
        before, self._session.tags = self._session.tags, tuple(tags)
        try:
            yield
        finally:
            self._session.tags = before

    @contextmanager
    def assign(self, rows: Sequence[int]) -> Iterator[None]:
        """Within the block, put each row of a batch on the given device: one device per row.

        Raises ConfigError for a device out of range; a forward of another number of rows raises ShapeError.
        """
        before, self._session.rows = self._session.rows, self._session.check_rows(rows)
        try:
            yield
        finally:
            self._session.rows = before

    @contextmanager
    def masked(self, mask_BS: torch.Tensor) -> Iterator[None]:
        """Within the block, tell padding by this mask [B, S] where a forward is given none, as under right padding.

        A causal model needs no mask there, and computes a little differently with one; routing must know all the same.
        A forward of another shape raises ShapeError.
        """
        before, self._session.mask_BS = self._session.mask_BS, mask_BS
        try:
            yield
        finally:
            self._session.mask_BS = before

    @contextmanager
    def observed(self, observer: Callable[[LayerStep], None]) -> Iterator[None]:
        """Within the block, call `observer` with every LayerStep. Which experts ran is nearly the text itself."""
        self._session.observers.append(observer)
        try:
            yield
        finally:
            self._session.observers.remove(observer)

    @contextmanager
    def timed(self, stopwatch: Stopwatch) -> Iterator[None]:
        """Within the block, tell `stopwatch` when each phase of each MoE layer ends.

        Raises UnsupportedModelError for layers whose experts are not called by themselves.
        """
        for layer in self._layers:
            if layer.site.kind in ("llama4", "jetmoe"):
                raise UnsupportedModelError(
                    f"{layer.site.name}: phases of {layer.site.kind} layers cannot be timed"
                )
        before, self._session.stopwatch = self._session.stopwatch, stopwatch
        try:
            yield
        finally:
            self._session.stopwatch = before

    def _enter(
        self, reader: CallReader, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if module is self._model or not self._session.running:  # an interrupt may have left calls open
            self._forget()
            self._session.forget()
        self._session.enter(module, reader.read(args, kwargs, self._session.mask_BS))

    def _leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        self._session.leave(module)
        if not self._session.running:
            self._forget()

    def _forget(self) -> None:
        for hooks in self._hooks:
            hooks.forget()


def _callers(model: nn.Module, layers: Sequence[MoELayer]) -> list[nn.Module]:
    """Return the model and every Hugging Face model inside it that holds MoE layers: each may be called by itself."""
    routers = {layer.site.router for layer in layers}
    inner = [
        part for part in model.modules() if hasattr(part, "base_model_prefix") and hasattr(part, "config")
    ]
    return [model, *(part for part in inner if part is not model and not routers.isdisjoint(part.modules()))]


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
