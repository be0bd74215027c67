"""SchedulingSnapshot: what a server's scheduler did up to a moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from evenmoe.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of values up to each bound; the last entry of `counts` is of values above all bounds.

    Raises ShapeError where bounds do not rise, or counts are not one more than bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds) + 1:
            raise ShapeError(
                f"{len(self.counts)} counts for {len(self.bounds)} bounds: there must be one more"
            )
        if any(low >= high for low, high in pairwise(self.bounds)):
            raise ShapeError(f"bounds {self.bounds} do not rise")


@dataclass(frozen=True, kw_only=True)
class SchedulingSnapshot:
    """Counts since the start, and gauges of the moment.

    num_waiting, num_running: requests now. num_admitted: requests that left the queue to run.
    passed_over: steps that admitted a younger request first, of each admitted request.
    scheduling_s: seconds of each step's decision (ordering of the queue, predictions and feedback included).
    prediction_error: 1 - recent mean cosine of predicted and observed loads, by predictor ("plain", "corrected",
    "mean"); empty before any feedback. num_feedback: comparisons of prediction and load; num_unaligned: loads that
    could not be matched with predictions.
    """

    strategy: str
    num_waiting: int
    num_running: int
    num_admitted: int
    passed_over: Histogram
    scheduling_s: Histogram
    prediction_error: dict[str, float] = field(default_factory=dict)
    num_feedback: int = 0
    num_unaligned: int = 0
