"""The parts of a machine's cost: what each phase of a layer takes as a function of its work. Frozen pydantic models.

All times are in milliseconds, all rates in units per second, all errors are shares (0.05 is 5%).
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from evenmoe.costs.shape import Dtype, LayerShape, element_bytes

Floats = NDArray[np.float64]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
MS_PER_S = 1000.0


class Part(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExpertCurve(Part):
    """Measured time of one expert of a layer by its tokens: linear between the knots, and on beyond the last.

    knots: (tokens, ms), both ascending. A load under one token costs its share of the first knot's rate from zero: an
    expected load of 0.3 is an expert that is touched three times in ten. fixed_ms, per_token_ms and fit_error: the
    straight line nearest to the knots and its median relative error there, to read; the knots are what predicts.
    """

    hidden: Count
    intermediate: Count
    dtype: Dtype
    implementation: str
    knots: tuple[tuple[float, float], ...]
    fixed_ms: Time
    per_token_ms: Time
    fit_error: Time

    @field_validator("knots")
    @classmethod
    def _knots_ascend(cls, knots: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if len(knots) < 2:
            raise ValueError("at least 2 knots of (tokens, ms)")
        table = np.asarray(knots, dtype=np.float64)
        if not np.isfinite(table).all() or (table <= 0).any():
            raise ValueError("knots of finite numbers above 0")
        if (np.diff(table[:, 0]) <= 0).any() or (np.diff(table[:, 1]) < 0).any():
            raise ValueError("knots with ascending tokens and times that do not fall")
        return knots

    def expert_ms(self, tokens: ArrayLike) -> Floats:
        """Return the time for `tokens` [...], of any shape; 0 for 0."""
        table = np.asarray(((0.0, 0.0), *self.knots))
        load = np.asarray(tokens, dtype=np.float64)
        (before, before_ms), (last, last_ms) = table[-2], table[-1]
        beyond = np.maximum(load - last, 0.0) * (last_ms - before_ms) / (last - before)
        return np.asarray(np.interp(load, table[:, 0], table[:, 1]) + beyond)


class Roofline(Part):
    """What a datasheet says, with stated efficiencies: the larger of arithmetic and memory traffic is the time.

    flops_per_s: dense peak by dtype; memory_bytes_per_s: peak of the device's own memory; the efficiencies are
    assumptions. launch_ms: fixed cost of starting one phase.
    """

    flops_per_s: dict[Dtype, Rate]
    memory_bytes_per_s: Rate
    flops_efficiency: Share
    memory_efficiency: Share
    launch_ms: Time

    def expert_ms(self, hidden: int, intermediate: int, dtype: Dtype, tokens: ArrayLike) -> Floats:
        """Return the time of one gated expert for `tokens` [...]: its weights once, its activations per token."""
        load = np.asarray(tokens, dtype=np.float64)
        weights = 3 * hidden * intermediate
        # read H, write and read 2I (gate and up), write and read I (their product), write H
        activations = 2 * hidden + 6 * intermediate
        touched = np.minimum(load, 1.0)
        moved = (touched * weights + load * activations) * element_bytes(dtype)
        return self.time_ms(2.0 * weights * load, moved, dtype)

    def gate_ms(self, shape: LayerShape, dtype: Dtype, tokens: ArrayLike) -> Floats:
        """Return the time of the router for `tokens` [...]: one matrix of H x E, its weights and its activations."""
        load = np.asarray(tokens, dtype=np.float64)
        weights = shape.hidden * shape.num_experts
        moved = (weights + load * (shape.hidden + shape.num_experts)) * element_bytes(dtype)
        return self.launch_ms + self.time_ms(2.0 * weights * load, moved, dtype)

    def time_ms(self, flops: ArrayLike, moved_bytes: ArrayLike, dtype: Dtype) -> Floats:
        """Return the larger of the two times."""
        compute = np.asarray(flops) / (self.flops_per_s[dtype] * self.flops_efficiency)
        memory = np.asarray(moved_bytes) / (self.memory_bytes_per_s * self.memory_efficiency)
        return np.asarray(np.maximum(compute, memory) * MS_PER_S)


class GateCost(Part):
    """Measured time of a router with its top-k: fixed_ms + tokens * per_token_ms."""

    hidden: Count
    num_experts: Count
    top_k: Count
    dtype: Dtype
    fixed_ms: Time
    per_token_ms: Time

    def time_ms(self, tokens: ArrayLike) -> Floats:
        """Return the time for `tokens` [...]."""
        return self.fixed_ms + np.asarray(tokens, dtype=np.float64) * self.per_token_ms


class PolicyCost(Part):
    """Time of a policy's decision: fixed_ms + pairs * per_pair_ms, of the pairs that the router chose."""

    fixed_ms: Time
    per_pair_ms: Time

    def time_ms(self, pairs: ArrayLike) -> Floats:
        """Return the time for `pairs` [...]."""
        return self.fixed_ms + np.asarray(pairs, dtype=np.float64) * self.per_pair_ms


class TransferCost(Part):
    """Time of moving bytes, in memory or over a link: fixed_ms + bytes / bytes_per_s."""

    fixed_ms: Time
    bytes_per_s: Rate

    def time_ms(self, moved_bytes: ArrayLike) -> Floats:
        """Return the time for `moved_bytes` [...]."""
        return self.fixed_ms + np.asarray(moved_bytes, dtype=np.float64) / self.bytes_per_s * MS_PER_S


class HeldOutPoint(Part):
    """One whole layer's experts that were timed after the fit, and what the fit said."""

    shape: str
    tokens_E: tuple[int, ...]
    measured_ms: Time
    predicted_ms: Time


class HeldOut(Part):
    """How well a measured machine predicts load vectors that it was not fitted on."""

    median_error: Time
    largest_error: Time
    points: tuple[HeldOutPoint, ...]

    @classmethod
    def of(cls, points: tuple[HeldOutPoint, ...]) -> HeldOut:
        """Return the points with the median and the largest of |predicted / measured - 1|."""
        errors = [abs(point.predicted_ms / point.measured_ms - 1.0) for point in points]
        return cls(median_error=float(np.median(errors)), largest_error=max(errors), points=points)


def line_through(
    work: ArrayLike, times_ms: ArrayLike, least_slope: float = 0.0
) -> tuple[float, float, float]:
    """Return (fixed_ms, ms per unit of work, median relative error): the line nearest to points of positive times.

    Least squares of the *relative* error, so that small and large points count alike; neither coefficient falls below
    zero (or the slope below `least_slope`): a line that would is fitted with that coefficient held.
    """
    x, y = np.asarray(work, dtype=np.float64), np.asarray(times_ms, dtype=np.float64)
    table: Any = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    fixed, slope = np.linalg.lstsq(table, np.ones_like(y), rcond=None)[0]
    if fixed < 0:
        fixed, slope = 0.0, float((x / y).sum() / ((x / y) ** 2).sum())
    if slope < least_slope:
        slope = least_slope
        fixed = max(0.0, float(((1 - slope * x / y) / y).sum() / (1 / y**2).sum()))
    error = float(np.median(np.abs((fixed + slope * x) / y - 1.0)))
    return float(fixed), float(slope), error
