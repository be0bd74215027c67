"""Checks: a setting of scheduling that could not act stops the engine's start. Knows no vLLM."""

from __future__ import annotations

from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.serving.config import SchedulingConfig

SCHEDULER = "evenmoe.serving.vllm.ExpertAwareScheduler"
CLIENT_LOADS = "evenmoe.serving.vllm.client_loads:ClientLoads"
"""What `--logits-processors` must have for loads of clients."""


def check_scheduler_is_ours(scheduler_cls: object, scheduling: SchedulingConfig) -> None:
    """Raise ConfigError where scheduling is configured and vLLM's own scheduler is to run."""
    changed = [
        name for name, value in scheduling if value != SchedulingConfig.model_fields[name].get_default()
    ]
    if scheduler_cls is None and changed:
        name = changed[0]
        raise ConfigError(
            f"evenmoe.scheduling.{name}", getattr(scheduling, name), f"used with --scheduler-cls {SCHEDULER}"
        )


def check_loads_are_checked(logits_processors: Any, scheduling: SchedulingConfig) -> None:
    """Raise ConfigError where loads of clients would come unchecked by the HTTP server."""
    names = [
        one if isinstance(one, str) else f"{one.__module__}:{one.__qualname__}"
        for one in logits_processors or ()
    ]
    if scheduling.predictor == "client" and CLIENT_LOADS not in names:
        raise ConfigError(
            "evenmoe.scheduling.predictor",
            "client",
            f"used with --logits-processors {CLIENT_LOADS}, which refuses requests whose load is none",
        )
