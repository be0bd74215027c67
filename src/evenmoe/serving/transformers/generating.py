"""generate_batch: transformers' own, with a policy on the model and our scheduler in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot
from evenmoe.serving.transformers.batching import batching_config
from evenmoe.serving.transformers.errors import EngineError
from evenmoe.serving.transformers.session import ServingSession


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What came of a batch.

    outputs: transformers' GenerationOutput of each input, in the order of the inputs.
    loads: what the experts were asked for, before and after the policy. scheduling: what the scheduler did.
    """

    outputs: tuple[Any, ...]
    loads: ExpertLoads
    scheduling: SchedulingSnapshot

    @property
    def tokens(self) -> list[list[int]]:
        """The new tokens of each input."""
        return [list(output.generated_tokens) for output in self.outputs]


def generate_batch(
    model: Any,
    inputs: Sequence[Sequence[int]],
    config: ServingConfig,
    *,
    generation_config: Any = None,
    continuous_batching_config: Any = None,
    **options: Any,
) -> Generated:
    """Generate for every input (token ids) by `config`: its policy at every MoE layer, its order of admission.

    generation_config, continuous_batching_config, options: as `model.generate_batch` takes them; `batching_config`
    says what of the second is refused. The policy is off the model afterwards.
    Raises what `attach` and Admission raise; ConfigError for settings that could not act, and for an input without
    tokens; EngineError where an input was not finished, which transformers alone only logs.
    """
    prompts = [[int(token) for token in prompt] for prompt in inputs]
    if not prompts or not all(prompts):
        raise ConfigError("inputs", f"{len(prompts)} inputs", "at least one, and at least one token in each")
    generation = generation_config or model.generation_config
    if (getattr(generation, "num_return_sequences", None) or 1) != 1:
        raise ConfigError("num_return_sequences", generation.num_return_sequences, "1")
    if options.get("persistent_manager"):
        raise ConfigError("persistent_manager", True, "False, as the scheduler belongs to one call")
    batching = batching_config(continuous_batching_config, config)
    longest = max(map(len, prompts))
    if (
        config.routing.isolates_prompts
        and batching.max_batch_tokens is not None
        and longest > batching.max_batch_tokens
    ):
        allowed = f"at least {longest}, the longest input: with this isolation none may be cut"
        raise ConfigError("max_batch_tokens", batching.max_batch_tokens, allowed)
    with ServingSession(model, config) as session:
        results = model.generate_batch(
            prompts,
            generation_config=generation_config,
            continuous_batching_config=batching,
            **options,
        )
        outputs = tuple(results.values())
        failed = [output.error for output in outputs if output.error is not None]
        if failed or len(outputs) < len(prompts):
            lost = f"{len(prompts) - len(outputs) + len(failed)} of {len(prompts)} inputs were not finished"
            raise EngineError(f"{lost}: {failed[0] if failed else 'the log says why'}")
        scheduling = session.scheduling()
        assert scheduling is not None
        return Generated(outputs=outputs, loads=session.expert_loads, scheduling=scheduling)
