"""ServingSession: evenmoe around one transformers model: its routing, its scheduler, and what is told of both."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

import evenmoe
from evenmoe.loads import ExpertLoads
from evenmoe.models.settings import resolve_placement
from evenmoe.serving.admission import Shape
from evenmoe.serving.config import RoutingConfig, ServingConfig
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.publisher import LoadsPublisher
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot
from evenmoe.serving.transformers.configuring import Configured, Note


class ServingSession:
    """Until closed the model routes by the policy, and the schedulers that transformers makes are configured.

    It is a Source of metrics. The model's forwards are the engine's as long as it is open. Raises what `attach` raises.
    """

    engine = "transformers"

    def __init__(self, model: nn.Module, config: ServingConfig) -> None:
        self._config = config
        routing = config.routing
        with ExitStack() as stack:
            self._attached = stack.enter_context(_attached(model, routing))
            layers = self._attached.layers
            experts_L = [layer.num_experts for layer in layers]
            placement = resolve_placement(routing.placement, experts_L, routing.num_devices)
            self.shape = Shape.of(self._attached.loads)
            self._configured = stack.enter_context(Configured(config, self.shape))
            self._publisher = LoadsPublisher(config.metrics, placement, self._tell)
            self._told: LoadsSnapshot | None = None
            self._publisher.start(self._attached.loads)
            stack.callback(model.register_forward_hook(self._step_done).remove)
            self._stack = stack.pop_all()

    def __enter__(self) -> ServingSession:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the policy off the model, which then is as before. What was told stays readable."""
        self._stack.close()

    @property
    def expert_loads(self) -> ExpertLoads:
        """Everything counted up to now, for this process; which experts a request used nearly reveals its text."""
        loads: ExpertLoads = self._attached.loads
        return loads

    def note(self, request_id: str, note: Note) -> None:
        """Say more of a request than transformers can, before it is added under this name."""
        self._configured.note(request_id, note)

    def config(self) -> ServingConfig:
        """What is in force."""
        return self._config

    def loads(self) -> LoadsSnapshot | None:
        """What was told last, each time of `metrics.least_requests` more requests or above; None with metrics off."""
        return self._told

    def scheduling(self) -> SchedulingSnapshot | None:
        """What the scheduler did up to its last step; None before there is one."""
        scheduler = self._configured.scheduler
        return None if scheduler is None else scheduler.snapshot()

    def _tell(self, snapshot: LoadsSnapshot) -> None:
        self._told = snapshot
        if self._configured.scheduler is not None:
            self._configured.scheduler.observe(snapshot)

    def _step_done(self, *_call: Any) -> None:
        """The model's forward has ended, in the engine's thread."""
        scheduler = self._configured.scheduler
        step = None if scheduler is None else scheduler.taken_step()
        if step is not None:
            self._publisher.step_done(
                lambda: self._attached.loads,
                num_tokens=step.num_tokens,
                num_new_requests=step.num_new_requests,
            )


def _attached(model: nn.Module, routing: RoutingConfig) -> Any:
    return evenmoe.attach(
        model,
        routing.build(),
        num_devices=routing.num_devices,
        placement=routing.placement,
        min_tokens=routing.min_tokens,
        phases=routing.phases,
        seed=routing.seed,
    )
