"""Engine: the routing session of one vLLM process, shared by all its MoE layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.models.layer import MoELayer
from evenmoe.models.packing import Pairs
from evenmoe.models.probe import Confirmation
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.routers import Routing
from evenmoe.models.session import Session
from evenmoe.models.settings import AttachSettings, resolve_placement
from evenmoe.models.sites import Site
from evenmoe.serving.config import RoutingConfig
from evenmoe.serving.vllm.steps import Steps


class Engine:
    """Routes the calls of every MoE layer of a process through one policy, step by step."""

    def __init__(self, config: RoutingConfig) -> None:
        self.config = config
        self.steps = Steps()
        self._sites: list[Site] = []
        self._layers: dict[str, MoELayer] = {}
        self._session: Session | None = None
        self._caller = nn.Module()

    def add_layer(self, name: str, num_experts: int, top_k: int) -> None:
        """Make a layer known; all are before the first step."""
        self._session = None
        nothing = nn.Module()
        self._sites.append(
            Site(
                name=name,
                architecture="vllm",
                kind="contract",
                block=nothing,
                router=nothing,
                experts=None,
                num_experts=num_experts,
                num_free_experts=0,
                top_k=top_k,
            )
        )

    @property
    def session(self) -> Session:
        """The session, made when the first layer is called."""
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def route(
        self, name: str, hidden_TH: Tensor, logits_TE: Tensor, weight_TK: Tensor, index_TK: Tensor
    ) -> Pairs | None:
        """The pairs that run of one layer's call, or None where it passes untouched. Counts it either way."""
        session = self.session
        if self.steps.begun():
            session.forget()
            session.enter(self._caller, self.steps.batch(index_TK.shape[0]))
        return self._layers[name].route(Routing(logits_TE, weight_TK, index_TK.long()), hidden_TH)

    def _new_session(self) -> Session:
        config = self.config
        placement = resolve_placement(
            config.placement, [site.num_experts for site in self._sites], config.num_devices
        )
        settings = AttachSettings(
            num_devices=config.num_devices,
            min_tokens=config.min_tokens,
            phases=config.phases,
            seed=config.seed,
        )
        session = Session(config.build(), settings, LoadRecorder(self._sites, placement))
        self._layers = {
            site.name: MoELayer(index, site, Confirmation(None, checked=False), session)
            for index, site in enumerate(self._sites)
        }
        return session


def slots(pairs: Pairs, num_tokens: int, least: int) -> tuple[Tensor, Tensor]:
    """Return weights and experts [T, S], a row per token, with expert -1 and weight 0 where a slot is empty.

    S is the most pairs of any token, at least `least`.
    """
    count_T = torch.bincount(pairs.token_P, minlength=num_tokens)
    width = max(int(count_T.max()) if num_tokens else 0, least)
    first_T = count_T.cumsum(0) - count_T
    place_P = torch.arange(pairs.token_P.shape[0], device=pairs.token_P.device) - first_T[pairs.token_P]
    expert_TS = pairs.expert_P.new_full((num_tokens, width), -1)
    weight_TS = pairs.weight_P.new_zeros((num_tokens, width))
    expert_TS[pairs.token_P, place_P] = pairs.expert_P
    weight_TS[pairs.token_P, place_P] = pairs.weight_P
    return weight_TS, expert_TS


_ENGINES: dict[str, Engine] = {}


def engine_of(key: Any, config: RoutingConfig) -> Engine:
    """This process's engine for a vLLM configuration, made when its first layer is."""
    return _ENGINES.setdefault(str(id(key)), Engine(config))
