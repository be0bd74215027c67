"""Statistics: what admission did so far, as histograms that only grow."""

from __future__ import annotations

from bisect import bisect_left

from evenmoe.serving.observation.scheduling_snapshot import Histogram

PASSED_OVER_BOUNDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SECONDS_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)


class Counting:
    """A histogram in the making."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value under the first bound that is not below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def histogram(self) -> Histogram:
        """The counts so far."""
        return Histogram(bounds=self.bounds, counts=tuple(self.counts), sum=self.sum)
