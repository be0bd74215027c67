"""Attached: a policy that is on a model, its loads, and what may be set while it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from evenmoe.errors import AttachError, ConfigError, UnsupportedModelError
from evenmoe.loads import ExpertLoads
from evenmoe.models.batch import CallReader
from evenmoe.models.hooks import LayerHooks, hooks_for
from evenmoe.models.layer import MoELayer
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.session import LayerStep, Session
from evenmoe.models.settings import AttachSettings
from evenmoe.models.sites import Site
from evenmoe.models.stopwatch import Stopwatch
from evenmoe.routing.policy import Policy

_ROUTERS: WeakSet[nn.Module] = WeakSet()
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


def is_attached(sites: Sequence[Site]) -> bool:
    """Return whether a policy is on any of these layers already."""
    return any(site.router in _ROUTERS for site in sites)


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
        _ROUTERS.update(layer.site.router for layer in layers)

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
            _ROUTERS.discard(layer.site.router)

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
