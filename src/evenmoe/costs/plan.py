"""What a calibration measures of one shape, fitted into a budget of work and memory. Numbers of tokens, no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from evenmoe.costs.shape import DTYPES, Dtype, LayerShape
from evenmoe.errors import ConfigError, check_choice

KNOTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_MOST_EXPERTS = 16
_POOL_BYTES = 2_000_000_000
"""Weights of all ranks together, of the shape that is being measured."""
_ROWS_BYTES = 600_000_000
"""Rows of hidden states that all ranks together hold at once, in several buffers each."""
_BUFFERS = 6
_CALL_FLOPS = 30e9
"""Work of one timed call: long against the clock, short enough for several rounds."""
_MOST_FLOPS = 4 * _CALL_FLOPS
"""Work of the largest call, of one expert."""
_MOST_ROWS = 8192
"""Rows of a call of several experts, however small they are."""
_LAYER_TOKENS = (64, 256, 1024)
_HELDOUT_VECTORS = 8
_IMPLEMENTATIONS = ("eager", "grouped_mm")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """What to measure. budget_s: the time for measuring all shapes, beside setting up; at least 3 rounds run anyway.

    Raises ConfigError for settings that cannot act.
    """

    shapes: tuple[LayerShape, ...]
    num_ranks: int = 1
    threads: int = 1
    dtype: Dtype = "float32"
    implementation: str = "eager"
    budget_s: float = 100.0
    least_rounds: int = 3
    most_rounds: int = 9
    seed: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("implementation", self.implementation, _IMPLEMENTATIONS)
        names = [shape.name for shape in self.shapes]
        if not names or len(set(names)) != len(names):
            raise ConfigError("shapes", names, "at least one, each once")
        for field_name in ("num_ranks", "threads", "least_rounds"):
            if getattr(self, field_name) < 1:
                raise ConfigError(field_name, getattr(self, field_name), "a number of at least 1")
        if self.most_rounds < self.least_rounds:
            raise ConfigError(
                "most_rounds", self.most_rounds, f"at least the {self.least_rounds} of least_rounds"
            )
        if not self.budget_s >= 0:
            raise ConfigError("budget_s", self.budget_s, "a number of at least 0")
        for shape in self.shapes:
            if shape.num_experts < self.num_ranks:
                raise ConfigError(
                    "num_ranks", self.num_ranks, f"at most the {shape.num_experts} experts of {shape.name}"
                )


@dataclass(frozen=True, kw_only=True)
class ShapePlan:
    """What one rank times of one shape.

    num_experts: how many experts' weights it holds. knots: (tokens per expert, experts touched) of each timed call.
    single: numbers of experts touched with one token each, for the fixed cost of a call. shared: tokens of the shared
    experts' calls. layer_tokens: tokens of the layer whose delivery is timed. heldout: load vectors, one call each.
    """

    num_experts: int
    knots: tuple[tuple[int, int], ...]
    single: tuple[int, ...]
    shared: tuple[int, ...]
    layer_tokens: tuple[int, ...]
    heldout: tuple[tuple[int, ...], ...] = field(repr=False)

    @property
    def most_rows(self) -> int:
        """The most rows of any call of the experts."""
        return max(max(n * m for n, m in self.knots), max(sum(vector) for vector in self.heldout))


def plan_shape(shape: LayerShape, config: CalibrationConfig, rank: int) -> ShapePlan:
    """Return what a rank measures of a shape; all ranks the same but for the load vectors that are held out.

    Raises ConfigError if one expert per rank does not fit the memory that calibration allows itself.
    """
    per_rank = _POOL_BYTES // config.num_ranks
    fitting = per_rank // shape.expert_bytes(config.dtype)
    if fitting < 1:
        raise ConfigError(
            "num_ranks",
            config.num_ranks,
            f"at most {_POOL_BYTES // shape.expert_bytes(config.dtype)}: an expert of {shape.name} has "
            f"{shape.expert_bytes(config.dtype) / 1e6:.0f} MB, and calibration holds at most {_POOL_BYTES / 1e9:g} GB",
        )
    num_experts = min(fitting, _MOST_EXPERTS, shape.num_experts)
    rows = min(max(int(_CALL_FLOPS // shape.flops_per_pair), 1), _MOST_ROWS)
    knots = tuple(
        (n, max(1, min(num_experts, rows // n)))
        for n in KNOTS
        if n <= 2 or n * shape.flops_per_pair <= _MOST_FLOPS
    )
    shared_flops = 6 * shape.hidden * shape.shared_intermediate
    shared = tuple(n for n in KNOTS if shared_flops and n * shared_flops <= _MOST_FLOPS)
    return ShapePlan(
        num_experts=num_experts,
        knots=knots,
        single=tuple(sorted({1, min(4, num_experts), num_experts})),
        shared=shared,
        layer_tokens=_layer_tokens(shape, config),
        heldout=tuple(_load_vectors(num_experts, rows, knots[-1][0], config.seed * 1000 + rank)),
    )


def _layer_tokens(shape: LayerShape, config: CalibrationConfig) -> tuple[int, ...]:
    pairs = _ROWS_BYTES // (config.num_ranks * _BUFFERS * shape.pair_bytes(config.dtype))
    fitting = max(int(pairs // shape.top_k), 4)
    return tuple(
        sorted({min(tokens, fitting) for tokens in _LAYER_TOKENS} | {max(min(fitting, 512) // 4, 2)})
    )


def _load_vectors(num_experts: int, rows: int, most: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Log-normal loads of a whole layer, from a few tokens per expert to all that a call should take."""
    rng = np.random.default_rng(seed)
    for total in np.geomspace(min(num_experts, rows), rows, _HELDOUT_VECTORS):
        weights = rng.lognormal(0.0, 1.0, num_experts)
        load = rng.multinomial(max(round(total), 1), weights / weights.sum())
        yield tuple(int(min(n, most)) for n in load)
