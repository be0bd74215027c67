"""Change: how far each counter of a server moved between two scrapes.

Shape letters: L MoE layers, D devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evenmoe.serving.monitor.scrape import Scrape
from evenmoe.serving.observation.names import LAYER_EXPERTS, METRICS, Metric

Floats = NDArray[np.float64]
Key = tuple[str, frozenset[tuple[str, str]]]

_COUNTED = frozenset(
    name for metric in METRICS if metric.kind in ("counter", "histogram") for name in metric.series
)


class Change:
    """Counters of `after` less those of `before`, or since the server's start without a `before`.

    restarted: a counter fell, as only another process's can; all of them are then counted from that one's start.
    """

    def __init__(self, before: Scrape | None, after: Scrape) -> None:
        earlier = {} if before is None else _counters(before)
        later = _counters(after)
        self.restarted = any(later.get(key, 0.0) < value for key, value in earlier.items())
        self.seconds = None if before is None or self.restarted else after.at_s - before.at_s
        if self.restarted:
            earlier = {}
        self._moved = {key: value - earlier.get(key, 0.0) for key, value in later.items()}
        experts = sorted(
            (int(labels["layer"]), labels["name"], value) for labels, value in after.of(LAYER_EXPERTS)
        )
        self.layers = tuple(name for _, name, _ in experts)
        self.num_experts_L = np.array([value for *_, value in experts], dtype=np.int64)

    def one(self, series: Metric | str, labels: Mapping[str, str] | None = None) -> float:
        """How far one counter moved; 0 where it is not shown."""
        name = series if isinstance(series, str) else series.name
        return self._moved.get((name, frozenset((labels or {}).items())), 0.0)

    def by_layer(self, metric: Metric, **labels: str) -> Floats:
        """[L]: of each layer."""
        rows = range(len(self.layers))
        return np.array(
            [self.one(metric, {"layer": str(layer), **labels}) for layer in rows], dtype=np.float64
        )

    def by_device(self, metric: Metric, num_devices: int, **labels: str) -> Floats:
        """[L, D]: of each layer and device."""
        columns = [self.by_layer(metric, device=str(device), **labels) for device in range(num_devices)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.layers), 0))

    def mean(self, metric: Metric) -> float | None:
        """Mean of a histogram's new values; None where there are none."""
        count = self.one(f"{metric.name}_count")
        return self.one(f"{metric.name}_sum") / count if count else None

    def quantile(self, metric: Metric, q: float) -> float | None:
        """Quantile of a histogram's new values, on a line within its bucket; None where there are none.

        Above the last bound nothing is known: then it is that bound.
        """
        name = f"{metric.name}_bucket"
        buckets = sorted(
            (float(dict(labels)["le"]), value)
            for (series, labels), value in self._moved.items()
            if series == name
        )
        if not buckets or not buckets[-1][1]:
            return None
        wanted = q * buckets[-1][1]
        for (low, below), (high, count) in pairwise([(0.0, 0.0), *buckets]):
            if count >= wanted and count > below:
                return low if np.isinf(high) else low + (high - low) * (wanted - below) / (count - below)
        return buckets[-1][0]  # pragma: no cover - the last bucket holds all


def _counters(scrape: Scrape) -> dict[Key, float]:
    return {
        (name, frozenset(labels.items())): value for name in _COUNTED for labels, value in scrape.of(name)
    }
