"""Engine: the routing session of one vLLM process, shared by all its MoE layers.

Shape letters: T tokens, E experts, K top-k, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.loads import ExpertLoads
from evenmoe.models.layer import MoELayer, unconfirmed
from evenmoe.models.packing import Pairs
from evenmoe.models.probe import Confirmation, settle
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.routers import Routing
from evenmoe.models.scores import ScoreRule
from evenmoe.models.session import Session
from evenmoe.models.settings import AttachSettings, resolve_labels, resolve_placement
from evenmoe.models.sites import Site
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.observation.loads_file import write_loads_snapshot
from evenmoe.serving.observation.publisher import LoadsPublisher
from evenmoe.serving.observation.source import write_config
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm.arrivals import Arrivals, Limits
from evenmoe.serving.vllm.checks import check_images, never_acts
from evenmoe.serving.vllm.passing import MOST_TOKENS, PassedSteps, common_rule
from evenmoe.serving.vllm.request_log import NAME, RequestLog
from evenmoe.serving.vllm.steps import Step, step_of
from evenmoe.serving.vllm.trimming import Trimmer, malloc_trim

logger = logging.getLogger(__name__)

Probe = Callable[[], Routing | None]
"""Asks a layer's router about logits drawn at random; None where it cannot be asked."""


class Engine:
    """Routes the calls of every MoE layer of a process through one policy, step by step.

    First every layer is added, then `start` checks the whole; after that `route` is called for each layer of each step.
    spool: where counts and logs go; None in the processes that write none.
    """

    def __init__(self, config: ServingConfig, spool: Spool | None) -> None:
        self.config = config
        self.limits: Callable[[Any], Limits] | None = None
        """What bounds a step, from its forward context; None: no request is counted."""
        self._spool = spool
        self._sites: list[Site] = []
        self._probes: dict[str, Probe] = {}
        self._layers: dict[str, MoELayer] = {}
        self._session: Session | None = None
        self._caller = nn.Module()
        self._context: Any = None
        self._step: Step | None = None
        self._passes = False
        """Whether the policy lets the running step pass, so that it is only counted."""
        self._num_routed = 0
        self._passed: PassedSteps | None = None
        self._rule: ScoreRule | None = None
        """The score rule of all layers, if there is one."""
        self._arrivals = Arrivals()
        self._publisher: LoadsPublisher | None = None
        self._log: RequestLog | None = None
        self._trimmer = Trimmer(malloc_trim())

    def add_layer(self, name: str, num_experts: int, top_k: int, probe: Probe) -> None:
        """Make a layer known, before `start`."""
        assert self._session is None, f"{name} was built after the model's end"
        nothing = nn.Module()
        self._probes[name] = probe
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
    def layer_names(self) -> tuple[str, ...]:
        """The layers, in the model's order."""
        return tuple(site.name for site in self._sites)

    @property
    def session(self) -> Session:
        """The session of all layers; there is one from `start` on."""
        assert self._session is not None, "no layer has been checked"
        return self._session

    @property
    def loads(self) -> ExpertLoads:
        """What was routed in steps of real requests since the start."""
        if self._passed is not None:
            self._passed.fold()
        return self.session.recorder.loads(source="vllm")

    def start(self) -> None:
        """All layers are known: check the configuration against them, and tell that they are there.

        Raises ConfigError, ShapeError, FileNotFoundError, FileFormatError where it does not fit the model;
        UnsupportedModelError where a policy needs scores that are not known.
        """
        if self._session is not None:  # a model within a model ends twice
            return
        self._session = session = self._new_session()
        for index, site in enumerate(self._sites):
            confirmation = self._confirm(site)
            self._layers[site.name] = MoELayer(index, site, confirmation, session)
        self._rule = self._common_rule()
        metrics = self.config.metrics
        if self._spool is None:
            return
        spool = self._spool
        write_config(self.config, spool)
        self._publisher = LoadsPublisher(
            metrics, session.recorder.placement, lambda snapshot: write_loads_snapshot(snapshot, spool)
        )
        self._publisher.start(self.loads)
        if metrics.per_request_loads:
            self._log = RequestLog(spool.folder / NAME)
            session.observers.append(self._log.observe)

    def route(self, name: str, context: Any, hidden_TH: Tensor, routing: Routing) -> Pairs | None:
        """The pairs that run of one layer's call, or None where it passes untouched. Counts it either way.

        context: the running step's forward context, an object of its own for each step; None while there is none.
        A step without requests (profiling, warm-up) passes and counts for nothing.
        """
        if context is None or context is not self._context:
            self._begin(context, routing)
        if self._step is None:
            return None
        layer, pairs = self._layers[name], None
        if self._passes and self._passed is not None:
            self._passed.note(layer.index, routing)
        else:
            pairs = layer.route(replace(routing, index_TK=routing.index_TK.long()), hidden_TH)
        self._num_routed += 1
        if self._num_routed == len(self._sites):
            self._end(self._step)
        return pairs

    @property
    def is_dummy(self) -> bool:
        """Whether the running step has no requests."""
        return self._step is None

    def _begin(self, context: Any, routing: Routing) -> None:
        self._context = context  # kept to the step's end, so that no other can have its address
        self._num_routed = 0
        self._step = None if context is None else step_of(context.attn_metadata, routing.index_TK.shape[0])
        self.session.forget()
        if self._log is not None:
            self._log.forget()
        if self._step is None:
            return
        self._passes = self._lets_pass(self._step)
        if self._passes:
            self.session.num_forwards += 1
            self._passed = self._passed or self._passed_steps(routing.logits_TE.device)
        else:
            self.session.enter(self._caller, self._step.batch)

    def _lets_pass(self, step: Step) -> bool:
        """Whether it can be told from the step alone that the policy lets it pass, and it is small."""
        session, site = self.session, self._sites[0]
        if step.num_rows > MOST_TOKENS or self._rule is None or self._log is not None:
            return False
        if never_acts(session.policy):
            return True
        new = sum(step.new_B)
        tokens = {"both": step.num_tokens, "decode": new, "prefill": step.num_tokens - new}
        decode = all(step.new_B) if session.settings.phases == "both" else session.settings.phases == "decode"
        return not session.applies(decode, tokens[session.settings.phases], site.num_experts, site.top_k)

    def _passed_steps(self, device: torch.device) -> PassedSteps:
        assert self._rule is not None
        return PassedSteps(self.session.recorder, self._rule, len(self._sites), device)

    def _end(self, step: Step) -> None:
        if self._passes and self._passed is not None:
            self._passed.count(step.num_tokens)
        if self._publisher is not None:
            began = 0 if self.limits is None else self._arrivals.of_step(step, self.limits(self._context))
            self._publisher.step_done(lambda: self.loads, num_tokens=step.num_tokens, num_new_requests=began)
        if self._log is not None:
            self._log.step_done(step)
        self._trimmer.step_done()
        self._context = None

    def _new_session(self) -> Session:
        config = self.config.routing
        policy = config.build()
        check_images(policy)
        num_experts_L = [site.num_experts for site in self._sites]
        placement = resolve_placement(config.placement, num_experts_L, config.num_devices)
        labels = resolve_labels(policy, self.layer_names, num_experts_L)
        settings = AttachSettings(
            num_devices=config.num_devices,
            min_tokens=config.min_tokens,
            phases=config.phases,
            seed=config.seed,
        )
        return Session(policy, settings, LoadRecorder(self._sites, placement), expert_modality=labels)

    def _common_rule(self) -> ScoreRule | None:
        """The score rule of all layers; None where they differ in it, or in size."""
        sizes = {(site.num_experts, site.top_k) for site in self._sites}
        rules = [layer.rule for layer in self._layers.values()]
        return common_rule(rules) if len(sizes) == 1 else None

    def _confirm(self, site: Site) -> Confirmation:
        """What the router's weights are of its logits, by asking it."""
        routing = self._probes[site.name]()
        rule = None if routing is None else settle(None, routing)
        if rule is None and self.session.policy.needs_true_scores:
            raise unconfirmed(site, self.session.policy.name)
        return Confirmation(rule, checked=True)
