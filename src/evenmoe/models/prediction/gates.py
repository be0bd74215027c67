"""Gates: embeddings through every layer's router, without attention or experts.

Shape letters: T tokens, U different token ids, L layers, E experts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.packing import chosen_experts
from evenmoe.models.prediction.running import run_layers
from evenmoe.models.prediction.tokenwise import Bools, Ints, Tokenwise
from evenmoe.models.routers import read_router
from evenmoe.models.sites import Site, find_sites

NUM_PROBED = 11
"""Tokens of the forward that shows what each router is given; no number that a model would choose."""


class Gates(Tokenwise):
    """What the routers choose for a token's embedding, as if no layer had added anything to it.

    The norm that a layer applies before its router is applied to the embedding; where the router reads the residual
    stream itself, the embedding is given as it is. Which of the two is found by running the model once on 11 tokens.
    Routers that text does not reach (of image tokens) are left at zero.

    keep: see Tokenwise.
    Raises UnsupportedModelError, saying which router and why, where a router cannot be asked by itself.
    """

    def __init__(self, model: nn.Module, *, keep: bool = True) -> None:
        sites = find_sites(model)
        super().__init__(
            len(sites),
            max(site.num_experts for site in sites),
            max(site.top_k for site in sites),
            keep=keep,
        )
        self._embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self._gates = _find_gates(model, self._embedding, sites)

    @torch.inference_mode()
    def choose(self, ids_U: Ints) -> Bools:
        """[U, L, E]: the experts chosen for each token id."""
        device = next(self._embedding.parameters()).device
        ids_1U = torch.from_numpy(ids_U).to(device)[None]
        embedded_1UH = self._embedding(ids_1U)
        chosen_ULE = np.zeros((len(ids_U), self.num_layers, self.num_experts), dtype=np.bool_)
        for layer, gate in self._gates.items():
            chosen_UE = gate.choose(embedded_1UH, ids_1U)
            chosen_ULE[:, layer, : chosen_UE.shape[1]] = chosen_UE.cpu().numpy()
        return chosen_ULE


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gate:
    """One layer's router with what stands before it. `extra` are its arguments after the hidden states."""

    site: Site
    norm: nn.Module | None
    axes: int
    extra: tuple[Any, ...]
    extra_by_name: dict[str, Any]

    def choose(self, embedded_1UH: Tensor, ids_1U: Tensor) -> Tensor:
        device = next(self.site.router.parameters()).device
        hidden = embedded_1UH.to(device) if self.norm is None else self.norm(embedded_1UH.to(device))
        return self.ask(hidden, ids_1U.to(device))

    def ask(self, hidden: Tensor, ids_1U: Tensor) -> Tensor:
        """[U, E] bool: the experts that the router chooses for hidden states."""
        hidden = hidden.reshape(-1, hidden.shape[-1]) if self.axes == 2 else hidden
        extra = [ids_1U if value is _IDS else value for value in self.extra]
        named = {name: ids_1U if value is _IDS else value for name, value in self.extra_by_name.items()}
        output = self.site.router(hidden, *extra, **named)
        return _chosen(output, self.site, hidden)


_IDS = object()
"""Stands for the token ids among a router's arguments."""


@dataclass(eq=False)
class _Seen:
    """What one router was given and said in the probing forward."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None


def _find_gates(model: nn.Module, embedding: nn.Module, sites: Sequence[Site]) -> dict[int, _Gate]:
    """The gates of the layers that text reaches, by layer, each checked against the model's own run."""
    ids_1T = np.arange(10, NUM_PROBED + 10)[None]
    with _Probe(model, embedding, sites) as probe:
        run_layers(model, ids_1T)
    assert probe.embedded is not None
    gates = {}
    for layer, site in enumerate(sites):
        seen = probe.seen.get(layer)
        if seen is not None:
            gates[layer] = _gate(site, seen, probe, torch.from_numpy(ids_1T))
    if not gates:
        raise _refused(sites[0], "none of the model's routers is reached by text")
    return gates


def _gate(site: Site, seen: _Seen, probe: _Probe, ids_1T: Tensor) -> _Gate:
    hidden, extra, named = _arguments(site, seen, ids_1T)
    embedded = probe.embedded
    assert embedded is not None
    if hidden.numel() != embedded.numel() or hidden.shape[-1] != embedded.shape[-1]:
        raise _refused(
            site, f"it reads {tuple(hidden.shape)}, the embeddings of the prompt are {tuple(embedded.shape)}"
        )
    norm = next((norm for norm, output in reversed(probe.normed) if _same(output, hidden)), None)
    if norm is None and not probe.is_plain:
        raise _refused(
            site, "no norm stands before it, and the first layer is not given the embeddings as they are"
        )
    gate = _Gate(site=site, norm=norm, axes=hidden.dim(), extra=extra, extra_by_name=named)
    try:
        with torch.inference_mode():
            again = gate.ask(hidden, ids_1T.to(hidden.device))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise _refused(site, f"it fails when called by itself: {error}") from error
    if not torch.equal(again, _chosen(seen.output, site, hidden)):
        raise _refused(site, "called by itself on the same hidden states, it chooses otherwise")
    return gate


def _arguments(site: Site, seen: _Seen, ids_1T: Tensor) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The hidden states, and what else the router is to be given: fixed tensors of the model, and token ids."""
    named = dict(seen.kwargs)
    hidden = seen.args[0] if seen.args else named.pop("hidden_states", None)
    if not isinstance(hidden, Tensor):
        raise _refused(site, "it is given no hidden states")
    held = {id(value) for value in (*site.block.parameters(), *site.block.buffers())}

    def kept(value: Any) -> Any:
        if value is None or id(value) in held:
            return value
        if isinstance(value, Tensor) and value.shape == ids_1T.shape and torch.equal(value.cpu(), ids_1T):
            return _IDS
        raise _refused(site, "it is given more than hidden states, such as the state of the router before")

    return hidden, tuple(map(kept, seen.args[1:])), {name: kept(value) for name, value in named.items()}


class _Probe:
    """Hooks that note, during one forward, what the embedding and the norms gave and what the routers were given."""

    def __init__(self, model: nn.Module, embedding: nn.Module, sites: Sequence[Site]) -> None:
        self.embedded: Tensor | None = None
        self.normed: list[tuple[nn.Module, Tensor]] = []
        self.seen: dict[int, _Seen] = {}
        self._first_input: Tensor | None = None
        self._handles = [embedding.register_forward_hook(self._after_embedding)]
        for module in model.modules():
            if "norm" in type(module).__name__.lower():
                self._handles.append(module.register_forward_hook(self._after_norm))
        first = _first_layer(model, sites[0])
        if first is not None:
            self._handles.append(first.register_forward_pre_hook(self._before_first, with_kwargs=True))
        for layer, site in enumerate(sites):
            self._handles.append(site.router.register_forward_pre_hook(self._before(layer), with_kwargs=True))
            self._handles.append(site.router.register_forward_hook(self._after(layer)))

    @property
    def is_plain(self) -> bool:
        """Whether the first layer was given the embeddings as they are."""
        return self._first_input is not None and _same(self._first_input, self.embedded)

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_exception: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _after_embedding(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self.embedded = output.clone() if self.embedded is None else self.embedded

    def _after_norm(self, module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            self.normed.append((module, output.clone()))

    def _before_first(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states")
        if self._first_input is None and isinstance(given, Tensor):
            self._first_input = given.clone()

    def _before(self, layer: int) -> Any:
        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.seen.setdefault(layer, _Seen(args, kwargs))

        return note

    def _after(self, layer: int) -> Any:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            self.seen[layer].output = output

        return note


def _first_layer(model: nn.Module, site: Site) -> nn.Module | None:
    """The first of the list of layers that a site is in."""
    parts = site.name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if place is None:
        return None
    layers: Any = model.get_submodule(".".join(parts[:place]))
    first: nn.Module = next(iter(layers.children()))
    return first


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.numel() == other.numel() and torch.equal(one.flatten(), other.flatten())


def _chosen(output: Any, site: Site, hidden: Tensor) -> Tensor:
    routing = read_router(output, site, hidden)
    used_TK = routing.weight_TK != 0 if site.kind == "zaya" else None
    every_TE = chosen_experts(routing.index_TK, used_TK, site.num_experts + site.num_free_experts)
    return every_TE[:, : site.num_experts]


def _refused(site: Site, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"gates cannot ask the router of {site.name} ({site.architecture}): {reason}. "
        "token-prior, alone and full work on this model."
    )
