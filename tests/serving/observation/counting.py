"""A recorder in plain Python: it is told each step's loads, and adds them up."""

import numpy as np

from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks, device_load
from evenmoe.placement import Placement


class Counting:
    """Loads of `num_layers` layers of `num_experts` experts, top-`top_k`, under a placement."""

    def __init__(self, num_layers=2, num_experts=4, num_devices=2, top_k=2, rows=None):
        if rows is None:
            rows = [[e * num_devices // num_experts for e in range(num_experts)]] * num_layers
        names = [f"model.layers.{layer}.mlp.experts" for layer in range(num_layers)]
        self.placement = Placement.of(rows, num_devices, layers=names)
        self.top_k, self.num_layers, self.num_experts = top_k, num_layers, num_experts
        self.steps = []

    def step(self, before_LE, after_LE=None):
        """Count a step; each entry of `after_LE` is at most that of `before_LE`."""
        before_LE = np.array(before_LE, dtype=np.int64)
        self.steps.append((before_LE, before_LE if after_LE is None else np.array(after_LE, dtype=np.int64)))

    def loads(self, by_tag=None):
        """Everything counted so far."""
        zero_LE = np.zeros((self.num_layers, self.num_experts), dtype=np.int64)
        before_LE = sum((before for before, _ in self.steps), zero_LE)
        after_LE = sum((after for _, after in self.steps), zero_LE)
        return ExpertLoads(
            layers=self.placement.layers,
            num_experts_L=np.full(self.num_layers, self.num_experts),
            top_k=self.top_k,
            total=LoadCounts(
                before_LE=before_LE,
                after_LE=after_LE,
                tokens_L=before_LE.sum(-1) // self.top_k,
                kept_L=after_LE.sum(-1),
                gate_mass_before_L=before_LE.sum(-1) * 0.25,
                gate_mass_kept_L=after_LE.sum(-1) * 0.25,
                tokens_without_expert_L=(before_LE - after_LE).min(-1),
            ),
            by_tag=by_tag or {},
            peaks=StepPeaks(
                num_devices=self.placement.num_devices,
                steps_L=np.full(self.num_layers, len(self.steps)),
                expert_before_L=self._peaks(0, self._experts),
                expert_after_L=self._peaks(1, self._experts),
                device_before_L=self._peaks(0, self._devices),
                device_after_L=self._peaks(1, self._devices),
            ),
            source="a test",
        )

    def _experts(self, load_E, layer):
        return load_E

    def _devices(self, load_E, layer):
        return device_load(load_E, self.placement.holds(layer), self.placement.num_devices)

    def _peaks(self, stage, of):
        return np.array(
            [
                sum(float(max(of(step[stage][layer], layer))) for step in self.steps)
                for layer in range(self.num_layers)
            ],
            dtype=np.float64,
        )
