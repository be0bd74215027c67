"""What calibration times: the experts of a layer, and a whole layer's delivery, as the runtime runs them.

Shape letters: T tokens, E experts, K top-k, R rows (pairs), H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.models.olmoe import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts, OlmoeMLP, OlmoeSparseMoeBlock

from evenmoe.costs.plan import CalibrationConfig, ShapePlan
from evenmoe.costs.rounds import Clock, Clocks
from evenmoe.costs.shape import Dtype, LayerShape
from evenmoe.models.attach import attach
from evenmoe.models.session import LayerStep
from evenmoe.models.stopwatch import Phase
from evenmoe.parallel import shard
from evenmoe.routing.policy import Policy

if TYPE_CHECKING:
    from evenmoe.parallel import Group

TINY_INTERMEDIATE = 8
"""Inner size of the experts where only what surrounds them is timed."""
POPULARITY = 1.0
"""Spread of the experts' popularity, against 1 of the logits of a token, where routing is drawn: the busiest of 64
experts then has some 5 times the mean."""
_MS = 1000.0
_EXCHANGES = ("dispatch", "combine", "wait")
"""Phases in which a rank is not alone at work."""


class ExpertsBench:
    """Experts of real size, called with top-1 rows as the runtime calls them. Weights are cold, as in a model: calls
    walk through all of the experts, which together do not fit a cache.
    """

    def __init__(
        self, shape: LayerShape, plan: ShapePlan, settings: CalibrationConfig, clocks: Clocks
    ) -> None:
        self.num_experts = plan.num_experts
        config = _config(shape, plan.num_experts, shape.intermediate, settings)
        self._experts = _random_module(lambda: OlmoeExperts(config), settings)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._rows_RH = _normal(plan.most_rows, shape.hidden, self._generator).to(_torch(settings.dtype))
        self._clock, self._next = clocks.work, 0

    def time_ms(self, tokens: Sequence[int]) -> float:
        """Return the time of one call in which expert i of the next len(tokens) gets tokens[i] rows, shuffled."""
        num_touched = len(tokens)
        expert_E = (torch.arange(num_touched) + self._next) % self.num_experts
        self._next = (self._next + num_touched) % self.num_experts
        expert_R = expert_E.repeat_interleave(torch.tensor(tokens))
        expert_R = expert_R[torch.randperm(expert_R.shape[0], generator=self._generator)]
        rows_RH = self._rows_RH[: expert_R.shape[0]]
        weight_R1 = torch.ones(expert_R.shape[0], 1, dtype=rows_RH.dtype)
        return _timed_ms(self._clock, lambda: self._experts(rows_RH, expert_R[:, None], weight_R1))


class SharedBench:
    """The shared experts of a layer, one dense gated block of their size together."""

    def __init__(
        self, shape: LayerShape, plan: ShapePlan, settings: CalibrationConfig, clocks: Clocks
    ) -> None:
        config = _config(shape, 1, shape.shared_intermediate, settings)
        self._block = _random_module(lambda: OlmoeMLP(config), settings)
        generator = torch.Generator().manual_seed(settings.seed)
        self._rows_TH = _normal(max(plan.shared), shape.hidden, generator).to(_torch(settings.dtype))
        self._clock = clocks.work

    def time_ms(self, tokens: int) -> float:
        """Return the time of one call with so many tokens."""
        return _timed_ms(self._clock, lambda: self._block(self._rows_TH[:tokens]))


class LayerBench:
    """One MoE layer sharded over the group, its experts of next to no size: what is left is gate, policy, delivery."""

    def __init__(
        self, shape: LayerShape, plan: ShapePlan, settings: CalibrationConfig, clocks: Clocks, group: Group
    ) -> None:
        config = _config(shape, shape.num_experts, TINY_INTERMEDIATE, settings)
        self._model = _random_module(lambda: _OneLayer(config), settings)
        router_EH = _normal(shape.num_experts, shape.hidden, torch.Generator().manual_seed(settings.seed))
        with torch.no_grad():
            self._model.mlp.gate.weight.copy_(router_EH / shape.hidden**0.5)
        own = torch.Generator().manual_seed(settings.seed + 1 + group.rank)
        hidden_TH = _normal(max(plan.layer_tokens), shape.hidden, own)
        # a direction that all tokens share makes some experts popular
        self._hidden_TH = (hidden_TH + POPULARITY).to(_torch(settings.dtype))
        self._parallel = shard(self._model, group)
        self._clocks = clocks

    def phases(self, policy: Policy, tokens: int) -> tuple[dict[str, float], list[int]]:
        """Return each phase's time in ms ("pack" and "unpack" for the two halves of permute), and the pairs per expert
        that this rank's tokens ran.
        """
        watch = _Marks(self._clocks)
        steps: list[list[int]] = []

        def note(step: LayerStep) -> None:
            steps.append(step.kept_TE.sum(0).tolist())

        with (
            _without_warnings(),
            attach(self._model, policy, parallel=self._parallel, min_tokens=1) as attached,
            attached.observed(note),
            attached.timed(watch),
            torch.inference_mode(),
        ):
            self._model(inputs_embeds=self._hidden_TH[None, :tokens])
        return watch.phases(), steps[0]


class _OneLayer(nn.Module):
    def __init__(self, config: OlmoeConfig) -> None:
        super().__init__()
        self.config = config
        self.mlp = OlmoeSparseMoeBlock(config)

    def forward(self, inputs_embeds: Tensor) -> Any:
        return self.mlp(inputs_embeds)


class _Marks:
    """A stopwatch that keeps the marks of one layer."""

    separates_waiting = True

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._marks: list[tuple[Phase, float]] = []

    def start(self, layer: int) -> None:
        self._last_wall, self._last_work = self._clocks.wall(), self._clocks.work()

    def mark(self, phase: Phase) -> None:
        wall, work = self._clocks.wall(), self._clocks.work()
        passed_s = wall - self._last_wall if phase in _EXCHANGES else work - self._last_work
        self._marks.append((phase, passed_s * _MS))
        self._last_wall, self._last_work = wall, work

    def stop(self) -> None:
        """Nothing follows the last mark."""

    def phases(self) -> dict[str, float]:
        """Milliseconds by phase; permute before the experts is pack, after them unpack."""
        total: dict[str, float] = {}
        permute = "pack"
        for phase, time_ms in self._marks:
            if phase == "expert":
                permute = "unpack"
            name = permute if phase == "permute" else phase
            total[name] = total.get(name, 0.0) + time_ms
        return total


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Policies are attached here to be timed, whatever attach has to say about their use."""
    logger = logging.getLogger("evenmoe.models.attach")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _config(
    shape: LayerShape, num_experts: int, intermediate: int, settings: CalibrationConfig
) -> OlmoeConfig:
    return OlmoeConfig(
        hidden_size=shape.hidden,
        intermediate_size=intermediate,
        num_experts=num_experts,
        num_experts_per_tok=min(shape.top_k, num_experts),
        experts_implementation=settings.implementation,
    )


def _random_module(build: Callable[[], nn.Module], settings: CalibrationConfig) -> Any:
    """A module with random weights: one slice of each fused weight is drawn and repeated, for drawing takes long."""
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu").to(_torch(settings.dtype)).eval()
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for parameter in module.parameters():
            first = parameter[0] if parameter.dim() == 3 else parameter
            first.copy_(torch.randn(first.shape, generator=generator) * 0.02)
            if parameter.dim() == 3:
                parameter[1:] = first
    return module


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator)


def _timed_ms(clock: Clock, call: Callable[[], object]) -> float:
    with torch.inference_mode():
        start = clock()
        call()
        return (clock() - start) * _MS


def _torch(dtype: Dtype) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
