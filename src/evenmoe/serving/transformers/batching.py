"""The ContinuousBatchingConfig that hooks and our scheduler work with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import ContinuousBatchingConfig

from evenmoe.errors import ConfigError
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.transformers.scheduler import NAME

_COMPILED = ("varlen_compile_config", "decode_compile_config")


def batching_config(given: ContinuousBatchingConfig | None, config: ServingConfig) -> Any:
    """A copy of the given configuration with our scheduler, eager and synchronous.

    Without one, blocks are shared only where the policy does not isolate requests.
    Raises ConfigError for what could not act or would not hold: another scheduler, recorded graphs and compiled
    forwards, which run no hooks, batches prepared ahead, and shared blocks under a policy that isolates requests.
    """
    if given is None:
        given = ContinuousBatchingConfig(allow_block_sharing=not config.routing.isolates_prompts)
    if given.scheduler_type not in (NAME, "fifo"):
        allowed = f'"{NAME}", or left out; strategy "fcfs" is first come, first served'
        raise ConfigError("scheduler_type", given.scheduler_type, allowed)
    graphs = given.use_cuda_graph
    if graphs is True or (isinstance(graphs, tuple) and any(graphs)):
        raise ConfigError("use_cuda_graph", graphs, "False, as a recorded graph runs no hooks")
    for name in _COMPILED:
        if getattr(given, name) is not None:
            raise ConfigError(name, getattr(given, name), "None, as routing is not compiled")
    if given.default_compile_level:
        raise ConfigError(
            "default_compile_level", given.default_compile_level, "0, as routing is not compiled"
        )
    if given.use_async_batching:
        allowed = "False, as the scheduler compares predictions with the loads of one step after the other"
        raise ConfigError("use_async_batching", True, allowed)
    if given.allow_block_sharing and config.routing.isolates_prompts:
        allowed = "False with this isolation: a shared prefix was computed under another request's capacity"
        raise ConfigError("allow_block_sharing", True, allowed)
    return replace(given, scheduler_type=NAME, use_cuda_graph=False, use_async_batching=False)
