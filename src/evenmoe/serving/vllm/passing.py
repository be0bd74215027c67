"""Passing: steps in which the policy lets every layer's call pass are counted for all layers at once, at their end.

In a step of a few new tokens each operation on a tensor costs more than its work, so a layer only notes what its router
said. Counts are the same as those of `LayerCounts.add`.
Shape letters: L MoE layers, T tokens, E experts, K top-k, D devices, M the most tokens of such a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evenmoe.models.recording import LoadRecorder
from evenmoe.models.routers import Routing
from evenmoe.models.scores import ScoreRule

MOST_TOKENS = 256


class PassedSteps:
    """Notes the layers of one step after the other. For layers with as many experts each and one score rule."""

    def __init__(
        self, recorder: LoadRecorder, rule: ScoreRule, num_layers: int, device: torch.device
    ) -> None:
        self._recorder, self._rule, self._num_layers, self._device = recorder, rule, num_layers, device
        holds_LDE = torch.stack(
            [torch.from_numpy(recorder.placement.holds(layer)) for layer in range(num_layers)]
        )
        share_LDE = holds_LDE.double() / holds_LDE.sum(1, keepdim=True)
        self._share_LED = share_LDE.transpose(1, 2).contiguous().to(device)
        self._noted: tuple[Tensor, Tensor] | None = None
        self._reset()

    def _reset(self) -> None:
        num_experts = self._share_LED.shape[1]
        with torch.inference_mode(False):
            self._load_LE = torch.zeros(self._num_layers, num_experts, dtype=torch.long, device=self._device)
            self._mass_L = torch.zeros(self._num_layers, dtype=torch.float64, device=self._device)
            self._peaks_L2 = torch.zeros(self._num_layers, 2, dtype=torch.float64, device=self._device)
        self._num_tokens = self._num_pairs = self._num_steps = 0

    def note(self, layer: int, routing: Routing) -> None:
        """Keep what a layer's router said: copies, since an engine may use the memory again. At most M tokens."""
        logits_LME, index_LMK = self._buffers(routing)
        num_tokens = routing.index_TK.shape[0]
        logits_LME[layer, :num_tokens].copy_(routing.logits_TE)
        index_LMK[layer, :num_tokens].copy_(routing.index_TK)

    def _buffers(self, routing: Routing) -> tuple[Tensor, Tensor]:
        if self._noted is None:
            shape = (self._num_layers, MOST_TOKENS)
            with torch.inference_mode(False):
                self._noted = (
                    torch.zeros(*shape, routing.logits_TE.shape[1], device=self._device),
                    torch.zeros(*shape, routing.index_TK.shape[1], dtype=torch.long, device=self._device),
                )
        return self._noted

    def count(self, num_real: int) -> None:
        """All layers of a step are noted: count its real tokens, which come first."""
        assert self._noted is not None
        logits_LTE, index_LTK = (noted[:, :num_real] for noted in self._noted)
        chosen_LTK = self._rule.scores(logits_LTE).gather(2, index_LTK)
        index_LP = index_LTK.flatten(1)
        load_LE = torch.zeros_like(self._load_LE).scatter_add_(1, index_LP, torch.ones_like(index_LP))
        load_LD = torch.bmm(load_LE[:, None].double(), self._share_LED)[:, 0]
        self._load_LE += load_LE
        self._mass_L += chosen_LTK.sum((1, 2), dtype=torch.float64)
        self._peaks_L2 += torch.stack([load_LE.amax(1).double(), load_LD.amax(1)], dim=1)
        self._num_tokens += num_real
        self._num_pairs += index_LP.shape[1]
        self._num_steps += 1

    def fold(self) -> None:
        """Add everything counted here to the recorder's counts."""
        if not self._num_steps:
            return
        for layer in range(self._num_layers):
            counts = self._recorder.layer(layer, self._device)
            for table_GE in (counts.before_GE, counts.after_GE):
                table_GE[0] += self._load_LE[layer]
            counts.tokens_G3[0] += counts.tokens_G3.new_tensor([self._num_tokens, self._num_pairs, 0])
            counts.mass_G2[0] += self._mass_L[layer]
            counts.peaks += self._peaks_L2[layer].repeat_interleave(2)
            counts.steps += self._num_steps
        self._reset()


def common_rule(rules: Sequence[ScoreRule | None]) -> ScoreRule | None:
    """The score rule of all layers; None where they have none in common."""
    first = rules[0]
    if first is None or first.expert_scale_E is not None:
        return None
    alike = all(rule is not None and _key(rule) == _key(first) for rule in rules)
    return first if alike else None


def _key(rule: ScoreRule) -> tuple[object, ...]:
    return rule.function, rule.renormalise, rule.power, rule.expert_scale_E is None
