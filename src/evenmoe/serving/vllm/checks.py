"""Checks: what evenmoe cannot do in an engine as it was configured stops the engine's start, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.routing import Baseline, Policy
from evenmoe.serving.config import RoutingConfig


def check_engine(vllm_config: Any, routing: RoutingConfig) -> None:
    """Raise ConfigError, which names vLLM's own setting, where a policy could not act as it says."""
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    for name, least in (("pipeline_parallel_size", 1), ("data_parallel_size", 1)):
        if getattr(parallel, name) > least:
            raise ConfigError(
                name, getattr(parallel, name), f"{least} with evenmoe: no rank sees all tokens and layers"
            )
    for owner, name, reason in (
        (parallel, "enable_eplb", "it moves experts that evenmoe counts where they were"),
        (parallel, "enable_dbo", "a policy sees the whole batch, not a part of it"),
        (parallel, "use_sequence_parallel_moe", "no rank sees all tokens"),
    ):
        if getattr(owner, name, False):
            raise ConfigError(name, True, f"off with evenmoe: {reason}")
    if vllm_config.speculative_config is not None:
        raise ConfigError(
            "speculative_config", "given", "none with evenmoe: a guessed token cannot be told from a prompt's"
        )
    if vllm_config.lora_config is not None:
        raise ConfigError("enable_lora", True, "off with evenmoe: adapters run experts in a way of their own")
    if model.runner_type != "generate":
        raise ConfigError("runner", model.runner_type, "generate with evenmoe")
    _check_graphs(vllm_config)
    _check_isolation(vllm_config, routing)


def _check_graphs(vllm_config: Any) -> None:
    mode = vllm_config.compilation_config.cudagraph_mode
    if vllm_config.device_config.device_type != "cpu" and mode is not None and mode.name != "NONE":
        raise ConfigError(
            "cudagraph_mode",
            mode.name,
            "NONE with evenmoe (-cc.cudagraph_mode=NONE, or --enforce-eager): each step keeps other pairs",
        )


def _check_isolation(vllm_config: Any, routing: RoutingConfig) -> None:
    """A request's share of capacity is counted in its own tokens of a step: neighbours must not decide how many."""
    if not routing.isolates_prompts:
        return
    policy = routing.build()
    setting = f"with isolation = {getattr(policy, 'isolation', None)!r} for prompts"
    if vllm_config.cache_config.enable_prefix_caching:
        raise ConfigError(
            "enable_prefix_caching",
            True,
            f"off {setting} (--no-enable-prefix-caching): a cached prefix was routed amid another request's tokens",
        )
    if vllm_config.scheduler_config.enable_chunked_prefill:
        raise ConfigError(
            "enable_chunked_prefill",
            True,
            f"off {setting} (--no-enable-chunked-prefill): how a prompt is cut depends on the other requests",
        )


def never_acts(policy: Policy) -> bool:
    """Whether the policy lets everything pass, whatever the step."""
    return isinstance(policy, Baseline) or (policy.has_capacity and getattr(policy, "gamma", 1.0) == math.inf)


def check_images(policy: Policy) -> None:
    """Raise ConfigError for a policy that needs to know the image tokens: attention metadata does not tell."""
    if policy.needs_images:
        setting = "modality" if hasattr(policy, "modality") else "policy"
        raise ConfigError(
            f"evenmoe.routing.{setting}",
            getattr(policy, setting, policy.name),
            "a policy that treats all tokens alike: inside vLLM it is not known which are image tokens",
        )


def check_layers(model: str, moe_layers: Mapping[str, str], hooked: tuple[str, ...]) -> None:
    """Raise UnsupportedModelError unless the model has MoE layers and every one of them is hooked.

    moe_layers: the class that runs each of vLLM's MoE layers, by the layer's name.
    """
    if not moe_layers:
        raise UnsupportedModelError(
            f"{model} has no mixture-of-experts layer of vLLM: there is nothing for evenmoe to route. "
            'Take "evenmoe" out of additional_config to serve it without.'
        )
    missed = {name: runner for name, runner in moe_layers.items() if name not in hooked}
    if missed:
        name, runner = next(iter(missed.items()))
        raise UnsupportedModelError(
            f"{len(missed)} of the {len(moe_layers)} MoE layers of {model} are run by classes of their own, which "
            f"evenmoe does not hook: {name} by {runner}"
        )


def check_experts(name: str, method: str, ours: bool) -> None:
    """Raise UnsupportedModelError for a layer whose experts are run by another method than vLLM's unquantized one."""
    if not ours:
        raise UnsupportedModelError(
            f"{name}: its experts are run by {method}; evenmoe hooks unquantized experts only"
        )


def check_router(name: str, router: object) -> None:
    """Raise UnsupportedModelError for a router with experts of its own, whose output the runner asks it for."""
    if hasattr(router, "zero_expert_output"):
        raise UnsupportedModelError(
            f"{name}: {type(router).__name__} has experts that do nothing; evenmoe knows none"
        )
