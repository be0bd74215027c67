"""Case: a tiny model of one architecture with inputs, and the measurements that the criteria share.

Shape letters: T tokens, E experts, D devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from evenmoe.models.attach import attach
from evenmoe.models.check.result import CheckFailure
from evenmoe.models.session import LayerStep
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.routing import Policy

NUM_DEVICES = 2
BATCH, LENGTH = 4, 16
TOLERANCE = 1e-5
"""Largest difference of logits (their spread is about 0.5) that the order of additions excuses."""

Inputs = dict[str, Tensor]


@dataclass(eq=False)
class Case:
    """One architecture's tiny model, its inputs, and its logits without evenmoe."""

    model_type: str
    seed: int
    model: nn.Module
    inputs: Inputs
    plain: Tensor
    max_abs_diff: float = 0.0

    @staticmethod
    def of(model_type: str, seed: int = 0) -> Case:
        """Build the model and run it once."""
        model = tiny_model(model_type, seed)
        inputs = tiny_inputs(model_type, BATCH, LENGTH, seed=seed)
        return Case(model_type, seed, model, inputs, logits_of(model, inputs))

    @contextmanager
    def attached(self, policy: Policy) -> Iterator[list[LayerStep]]:
        """Within the block the policy is on the model; gives the list that collects what each MoE layer kept."""
        steps: list[LayerStep] = []
        with attach(self.model, policy, num_devices=NUM_DEVICES) as attached, attached.observed(steps.append):
            assert num_hooks(self.model) > 0
            yield steps

    def attached_logits(self, policy: Policy, inputs: Inputs | None = None) -> tuple[Tensor, list[LayerStep]]:
        """The logits with `policy` on the model, and what each MoE layer was given and kept, in order."""
        with self.attached(policy) as steps:
            logits = logits_of(self.model, inputs or self.inputs)
        if not steps:
            raise CheckFailure("no MoE layer was seen")
        return logits, steps

    def require_equal(self, logits: Tensor, expected: Tensor, what: str) -> None:
        """Raise CheckFailure unless the logits are bitwise the expected ones."""
        self._note(logits, expected)
        if not torch.equal(logits, expected):
            raise CheckFailure(
                f"{what}: logits differ by {difference(logits, expected):.2g}, expected bitwise equality"
            )

    def require_close(self, logits: Tensor, expected: Tensor, what: str) -> None:
        """Raise CheckFailure unless the logits agree to TOLERANCE."""
        self._note(logits, expected)
        if not (moved := difference(logits, expected)) <= TOLERANCE:
            raise CheckFailure(f"{what}: logits differ by {moved:.2g}, more than {TOLERANCE}")

    def _note(self, logits: Tensor, expected: Tensor) -> None:
        self.max_abs_diff = max(self.max_abs_diff, difference(logits, expected))


def logits_of(model: nn.Module, inputs: Inputs) -> Tensor:
    """Run the model once."""
    with torch.inference_mode():
        logits: Tensor = model(**inputs).logits
    return logits


def num_hooks(model: nn.Module) -> int:
    """Count evenmoe's hooks on all modules; transformers has some of its own."""
    hooks = [
        hook
        for module in model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    ]
    owners = [getattr(hook.func if isinstance(hook, partial) else hook, "__module__", None) for hook in hooks]
    return sum(str(owner).startswith("evenmoe.") for owner in owners)


def loads_per_device(step: LayerStep, pairs_TE: Tensor) -> Tensor:
    """Return [D, E]: how many of the pairs each expert gets from each device's tokens."""
    loads_DE = torch.zeros(NUM_DEVICES, pairs_TE.shape[1], dtype=torch.long)
    return loads_DE.index_add_(0, token_devices(step), pairs_TE.long())


def token_devices(step: LayerStep) -> Tensor:
    """Return [T]: the virtual device of each token."""
    device_T = step.tokens.device_T
    if device_T is None:
        raise CheckFailure(f"{step.name}: tokens have no device")
    return device_T


def difference(logits: Tensor, expected: Tensor) -> float:
    if logits.shape != expected.shape:
        raise CheckFailure(f"logits have shape {tuple(logits.shape)}, expected {tuple(expected.shape)}")
    return float((logits - expected).abs().max())
