"""Recording: counts what was routed, in tensors on the model's own device, and hands them out as ExpertLoads.

Shape letters: T tokens, E experts, D devices, G groups of tokens (group 0 is untagged, the others are tags).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks
from evenmoe.models.sites import Site
from evenmoe.placement import Placement

_PEAKS = ("expert_before_L", "expert_after_L", "device_before_L", "device_after_L")


class LayerCounts:
    """Running counts of one layer, by group."""

    def __init__(
        self, num_experts: int, copies_DE: Tensor, device: torch.device, *, keeps_steps: bool
    ) -> None:
        with torch.inference_mode(False):
            self.before_GE = torch.zeros(1, num_experts, dtype=torch.long, device=device)
            self.after_GE = torch.zeros_like(self.before_GE)
            self.tokens_G3 = torch.zeros(1, 3, dtype=torch.long, device=device)
            """Tokens, top-k pairs that ran, tokens without expert."""
            self.mass_G2 = torch.zeros(1, 2, dtype=torch.float64, device=device)
            """Gate mass before and kept."""
            self.peaks = torch.zeros(len(_PEAKS), dtype=torch.float64, device=device)
            share_DE = copies_DE.double() / copies_DE.sum(0)
            self._share_ED = share_DE.T.to(device)
        self.steps = 0
        self.step_loads: list[Tensor] | None = [] if keeps_steps else None
        """The loads [2, E] of each step, before and after, where they are kept."""

    def add(
        self,
        *,
        chosen_TE: Tensor,
        kept_TE: Tensor,
        free_T: Tensor | None,
        real_T: Tensor | None,
        scores_TE: Tensor,
        group_T: Tensor | None,
        num_groups: int,
    ) -> None:
        """Count one forward. No padding token is chosen or kept; free_T marks tokens with an identity expert.

        That nothing was dropped may be said by giving the same tensor twice.
        """
        self._grow(num_groups)
        dropped = kept_TE is not chosen_TE
        kept_chosen_TE = kept_TE & chosen_TE if dropped else chosen_TE
        ran_T = kept_TE.any(1) if free_T is None else kept_TE.any(1) | free_T
        real_T = torch.ones_like(ran_T) if real_T is None else real_T
        tokens_T3 = torch.stack([real_T.long(), kept_chosen_TE.sum(1), (real_T & ~ran_T).long()], dim=1)
        before_T = torch.where(chosen_TE, scores_TE, 0.0).sum(1, dtype=torch.float64)
        kept_T = (
            torch.where(kept_chosen_TE, scores_TE, 0.0).sum(1, dtype=torch.float64) if dropped else before_T
        )
        step_before_GE = _by_group(chosen_TE, group_T, num_groups)
        step_after_GE = _by_group(kept_TE, group_T, num_groups) if dropped else step_before_GE
        self.before_GE += step_before_GE
        self.after_GE += step_after_GE
        self.tokens_G3 += _by_group(tokens_T3, group_T, num_groups)
        self.mass_G2 += _by_group(torch.stack([before_T, kept_T], dim=1), group_T, num_groups)
        load_2E = torch.stack([step_before_GE.sum(0), step_after_GE.sum(0)])
        self._add_peaks(load_2E)
        if self.step_loads is not None:
            self.step_loads.append(load_2E)
        self.steps += 1

    def _add_peaks(self, load_2E: Tensor) -> None:
        load_2D = load_2E.double() @ self._share_ED  # a copy takes an even share
        self.peaks += torch.cat([load_2E.amax(1), load_2D.amax(1)])

    def _grow(self, num_groups: int) -> None:
        missing = num_groups - self.tokens_G3.shape[0]
        if missing <= 0:
            return
        with torch.inference_mode(False):
            for name in ("before_GE", "after_GE", "tokens_G3", "mass_G2"):
                old = getattr(self, name)
                setattr(self, name, torch.cat([old, old.new_zeros(missing, *old.shape[1:])]))


def _by_group(values: Tensor, group_T: Tensor | None, num_groups: int) -> Tensor:
    """Sum over the tokens of each group; without groups all are in group 0."""
    if group_T is None and num_groups == 1:
        return values.sum(0, keepdim=True)
    values = values.long() if values.dtype == torch.bool else values
    total = values.new_zeros(num_groups, *values.shape[1:])
    if group_T is None:
        total[0] = values.sum(0)
        return total
    return total.index_add_(0, group_T, values)


class LoadRecorder:
    """The counts of every layer of one model."""

    def __init__(self, sites: Sequence[Site], placement: Placement, *, keeps_steps: bool = False) -> None:
        self._sites = tuple(sites)
        self.placement = placement
        self._keeps_steps = keeps_steps
        self.reset()

    def reset(self) -> None:
        """Forget all counts and tags."""
        self._layers: list[LayerCounts | None] = [None] * len(self._sites)
        self._group_of_tag: dict[str, int] = {}

    @property
    def num_groups(self) -> int:
        return len(self._group_of_tag) + 1

    def group_of(self, tag: str) -> int:
        """Return the group in which the tokens of `tag` are counted; a new tag opens one."""
        return self._group_of_tag.setdefault(tag, len(self._group_of_tag) + 1)

    def layer(self, index: int, device: torch.device) -> LayerCounts:
        """Return the counts of one layer, on the device that its tokens are on."""
        counts = self._layers[index]
        if counts is None:
            counts = LayerCounts(
                self._sites[index].num_experts,
                torch.from_numpy(self.placement.holds(index)),
                device,
                keeps_steps=self._keeps_steps,
            )
            self._layers[index] = counts
        return counts

    def step_loads(self, index: int) -> Tensor:
        """Return [S, 2, E]: a layer's loads of each step, before and after the policy; only where steps are kept."""
        counts = self._layers[index]
        if counts is None or not counts.step_loads:
            return torch.zeros(0, 2, self._sites[index].num_experts, dtype=torch.long)
        return torch.stack(counts.step_loads).cpu()

    def loads(self, source: str) -> ExpertLoads:
        """Return a snapshot of everything counted so far."""
        groups = range(self.num_groups)
        return ExpertLoads(
            layers=tuple(site.name for site in self._sites),
            num_experts_L=np.array([site.num_experts for site in self._sites], dtype=np.int64),
            top_k=max(site.top_k for site in self._sites),
            total=self._counts(groups),
            by_tag={tag: self._counts(range(group, group + 1)) for tag, group in self._group_of_tag.items()},
            peaks=self._step_peaks(),
            source=source,
        )

    def _counts(self, groups: range) -> LoadCounts:
        most = max(site.num_experts for site in self._sites)
        load_2LE = np.zeros((2, len(self._sites), most), dtype=np.int64)
        tokens_3L = np.zeros((3, len(self._sites)), dtype=np.int64)
        mass_2L = np.zeros((2, len(self._sites)), dtype=np.float64)
        for row, layer in enumerate(self._layers):
            if layer is not None:
                for table, load_GE in enumerate((layer.before_GE, layer.after_GE)):
                    load_2LE[table, row, : load_GE.shape[1]] = _sum(load_GE, groups)
                tokens_3L[:, row] = _sum(layer.tokens_G3, groups)
                mass_2L[:, row] = _sum(layer.mass_G2, groups)
        return LoadCounts(
            before_LE=load_2LE[0],
            after_LE=load_2LE[1],
            tokens_L=tokens_3L[0],
            kept_L=tokens_3L[1],
            gate_mass_before_L=mass_2L[0],
            gate_mass_kept_L=mass_2L[1],
            tokens_without_expert_L=tokens_3L[2],
        )

    def _step_peaks(self) -> StepPeaks:
        peaks_L = [
            np.zeros(len(_PEAKS)) if layer is None else layer.peaks.cpu().numpy() for layer in self._layers
        ]
        steps_L = np.array([0 if layer is None else layer.steps for layer in self._layers], dtype=np.int64)
        columns = dict(zip(_PEAKS, np.array(peaks_L, dtype=np.float64).T.copy(), strict=True))
        return StepPeaks(num_devices=self.placement.num_devices, steps_L=steps_L, **columns)


def _sum(values: Tensor, groups: range) -> NDArray[Any]:
    """Sum the given groups; a layer that met fewer groups counts the rest as 0."""
    return np.asarray(values[groups.start : groups.stop].sum(0).cpu().numpy())
