"""What a model's MoE layers were asked to run and what they ran.

Shape letters: L MoE layers, E experts (the most of any layer), D devices. Layers with fewer experts are
padded with zeros; `num_experts_L` says how many are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ShapeError
from evenmoe.loads import metrics

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadCounts:
    """Counts of one tag, or of everything. Padding tokens are never counted."""

    before_LE: Ints
    """Top-k assignments: pairs the model's own router asked for."""
    after_LE: Ints
    """Pairs that ran, substitutes included."""
    tokens_L: Ints
    """Real tokens that passed the layer."""
    kept_L: Ints
    """Top-k assignments that ran; substitutes are not counted."""
    gate_mass_before_L: Floats
    """Sum of the scores of the top-k assignments."""
    gate_mass_kept_L: Floats
    """Sum of the scores of the top-k assignments that ran."""
    tokens_without_expert_L: Ints
    """Real tokens left with no routed expert at all."""

    def __post_init__(self) -> None:
        shape = self.before_LE.shape
        if len(shape) != 2 or self.after_LE.shape != shape:
            raise ShapeError(
                f"before_LE {shape} and after_LE {self.after_LE.shape} must both be [layers, experts]"
            )
        for name, array in self.arrays().items():
            if array.shape[0] != shape[0]:
                raise ShapeError(f"{name} has {array.shape[0]} layers, before_LE has {shape[0]}")

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Every array by its field name, in the order of the fields."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def undropped(before_LE: Ints, top_k: int) -> LoadCounts:
        """Counts of a plain recorded run, where everything asked for ran and gate scores are unknown (as 1)."""
        assigned_L = before_LE.sum(-1)
        return LoadCounts(
            before_LE=before_LE,
            after_LE=before_LE.copy(),
            tokens_L=assigned_L // top_k,
            kept_L=assigned_L,
            gate_mass_before_L=assigned_L.astype(np.float64),
            gate_mass_kept_L=assigned_L.astype(np.float64),
            tokens_without_expert_L=np.zeros_like(assigned_L),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPeaks:
    """Sums over steps (forwards) of the busiest expert's and the busiest device's load in that step."""

    num_devices: int
    steps_L: Ints
    expert_before_L: Floats
    expert_after_L: Floats
    device_before_L: Floats
    device_after_L: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertLoads:
    """Expert loads per layer, before and after the policy, in total and by tag (domain, tenant, request)."""

    layers: tuple[str, ...]
    num_experts_L: Ints
    top_k: int
    total: LoadCounts
    by_tag: Mapping[str, LoadCounts] = field(default_factory=dict)
    peaks: StepPeaks | None = None
    """None where only sums over a whole run are known, as in an imported file."""
    source: str = ""

    def __post_init__(self) -> None:
        for tag, counts in self:
            if counts.before_LE.shape != (len(self.layers), self.num_experts):
                raise ShapeError(
                    f"counts of {tag!r} are {counts.before_LE.shape}, but there are {len(self.layers)} layers "
                    f"of at most {self.num_experts} experts"
                )

    def __iter__(self) -> Iterator[tuple[str, LoadCounts]]:
        """The total under the name "total", then each tag."""
        yield "total", self.total
        yield from self.by_tag.items()

    @property
    def num_experts(self) -> int:
        """The most experts of any layer, E."""
        return int(np.max(self.num_experts_L, initial=0))

    @property
    def drop_rate(self) -> float:
        """Share of top-k assignments that did not run, over all layers."""
        return metrics.drop_rate(self.total.before_LE, self.total.kept_L)

    @property
    def gate_mass_kept(self) -> float:
        """Share of top-k gate scores kept, over all layers."""
        return metrics.gate_mass_kept(self.total.gate_mass_before_L, self.total.gate_mass_kept_L)

    @property
    def relative_work(self) -> float:
        """Pairs that ran over T * K, over all layers."""
        return metrics.relative_work(self.total.before_LE, self.total.after_LE)

    @property
    def tokens_without_expert(self) -> float:
        """Share of tokens left without any routed expert, averaged over layers."""
        return float(self.total.tokens_without_expert_L.sum()) / max(int(self.total.tokens_L.sum()), 1)

    @property
    def peak_to_mean_before(self) -> float:
        """Busiest expert over the mean expert as the router asked, averaged over steps and layers by load."""
        return self._peak_to_mean(self.total.before_LE, self.peaks.expert_before_L if self.peaks else None)

    @property
    def peak_to_mean_after(self) -> float:
        """Busiest expert over the mean expert as it ran, averaged over steps and layers by load."""
        return self._peak_to_mean(self.total.after_LE, self.peaks.expert_after_L if self.peaks else None)

    @property
    def straggler_factor_before(self) -> float:
        """Straggler factor of the recorded devices had nothing been dropped. NaN where steps were not recorded."""
        return self._straggler_factor(self.peaks.device_before_L) if self.peaks else float("nan")

    @property
    def straggler_factor(self) -> float:
        """Busiest device's load as it ran over the even load T * K / D, averaged by load over steps and layers.

        NaN where steps were not recorded.
        """
        return self._straggler_factor(self.peaks.device_after_L) if self.peaks else float("nan")

    def _peak_to_mean(self, counts_LE: Ints, peak_L: Floats | None) -> float:
        if peak_L is None:
            peak_L = counts_LE.max(-1).astype(np.float64)
        return metrics.ratio_of_sums(peak_L, counts_LE.sum(-1) / self.num_experts_L)

    def _straggler_factor(self, device_peak_L: Floats) -> float:
        assert self.peaks is not None
        return metrics.ratio_of_sums(device_peak_L, self.total.before_LE.sum(-1) / self.peaks.num_devices)
