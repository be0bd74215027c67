"""ModelClock: runs a prefill and the decode steps after it, and keeps what each took and what its MoE layers took.

Shape letters: B rows, S positions, L MoE layers, E experts, C calls (forwards of one pass).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evenmoe.bench.phases import Clock, LayerRecord, PhaseRecorder
from evenmoe.models.session import LayerStep
from evenmoe.models.sites import find_sites

Ints = NDArray[np.int64]
BeforeCall = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One forward on one device: when it began, how long it took, and the record of each MoE layer in order."""

    start_ns: int
    wall_ns: int
    records: tuple[LayerRecord, ...]

    @property
    def outside_ns(self) -> int:
        """The time outside the MoE layers."""
        return self.wall_ns - sum(record.wall_ns for record in self.records)


class ModelClock:
    """One process's model under the clock. An MoE layer lasts from the entry of its block to its return.

    sync: waits for the other ranks, where there are any, and for the GPU; a forward lasts from one to the next.
    read_ns: nanoseconds, of the same clock as the recorder's.
    """

    def __init__(
        self,
        model: nn.Module,
        recorder: PhaseRecorder,
        sync: Callable[[], None],
        read_ns: Clock = time.perf_counter_ns,
    ) -> None:
        self._model, self.recorder, self._sync, self._read_ns = model, recorder, sync, read_ns
        self._call = 0
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self._options["logits_to_keep"] = 1
        for site in find_sites(model):
            site.block.register_forward_pre_hook(self._begin)
            site.block.register_forward_hook(self._end)

    @torch.inference_mode()
    def run(self, ids_BS: Tensor, num_prompt: int, before_call: BeforeCall) -> list[Forward]:
        """Run one pass over the rows: the prompt at once, then the rest token by token. Returns [C] forwards.

        before_call: told which forward comes next, outside the time that is measured.
        """
        forwards, cache = [], None
        for self._call in range(1 + ids_BS.shape[1] - num_prompt):
            last = num_prompt + self._call
            first = 0 if self._call == 0 else last - 1
            before_call(self._call)
            self._sync()
            start_ns = self._read_ns()
            output = self._model(input_ids=ids_BS[:, first:last], past_key_values=cache, **self._options)
            self._sync()
            wall_ns = self._read_ns() - start_ns
            cache = output.past_key_values
            records, self.recorder.records = tuple(self.recorder.records), []
            forwards.append(Forward(start_ns=start_ns, wall_ns=wall_ns, records=records))
        return forwards

    def _begin(self, _block: nn.Module, _args: Any) -> None:
        self.recorder.begin(self._call)

    def _end(self, _block: nn.Module, _args: Any, _output: Any) -> None:
        self.recorder.end()


class CallCounts:
    """An observer of one device: what each forward asked of each layer's experts, what ran, and whether the policy
    acted. Tell it the number of the forward in `call`.
    """

    def __init__(self, num_calls: int, num_experts_L: tuple[int, ...]) -> None:
        layers, most = len(num_experts_L), max(num_experts_L)
        self.call = 0
        self.asked_CLE: Ints = np.zeros((num_calls, layers, most), dtype=np.int64)
        self.run_CLE: Ints = np.zeros_like(self.asked_CLE)
        self.kept_CL: Ints = np.zeros((num_calls, layers), dtype=np.int64)
        self.applied_CL: NDArray[np.bool_] = np.zeros((num_calls, layers), dtype=bool)

    def __call__(self, step: LayerStep) -> None:
        """Count one layer's step."""
        num_experts = step.chosen_TE.shape[1]
        where = self.call, step.layer
        self.asked_CLE[where][:num_experts] += step.chosen_TE.sum(0).cpu().numpy()
        self.run_CLE[where][:num_experts] += step.kept_TE.sum(0).cpu().numpy()
        self.kept_CL[where] += int((step.kept_TE & step.chosen_TE).sum())
        self.applied_CL[where] = step.applied
