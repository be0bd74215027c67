"""Emulated devices: each device's part of a layer is run alone on this machine, by the code that real ranks run.

A group that sends nothing stands in for the others: it says how many rows would arrive, by the routing that was drawn,
and hands out rows of the right number. The time between the parts is the link's, computed. Shape letters: T tokens,
E experts, D devices, R received rows, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evenmoe import attach
from evenmoe.bench.block import OneLayer, RouterAnswer, random_hidden
from evenmoe.bench.job import LayerJob, OnProgress, Setting
from evenmoe.bench.phases import (
    Clock,
    LayerRecord,
    PhaseRecorder,
    Segment,
    best_record,
    collector_paused,
    median_record,
    merged,
)
from evenmoe.bench.routed import Ints, RoutedLayer
from evenmoe.costs.machine import Machine
from evenmoe.costs.parts import TransferCost
from evenmoe.errors import ConfigError
from evenmoe.models.stopwatch import Phase
from evenmoe.parallel import ExpertParallel, Group, shard
from evenmoe.parallel.group import Reduction

DEFAULT_LINK_GB_S = 12.5
"""100 Gbit/s Ethernet, each way."""
DEFAULT_LATENCY_US = 20.0


@dataclass(frozen=True, kw_only=True)
class Link:
    """What carries rows between devices: the time of an exchange, and of what dispatch exchanges beside the rows."""

    transfer: TransferCost
    counts_ms: float

    @classmethod
    def of(cls, gb_per_s: float, latency_us: float) -> Link:
        """A link of so many 10^9 bytes per second each way; an exchange, also the one of counts, waits for latency."""
        for field, value in (("link_gb_s", gb_per_s), ("link_latency_us", latency_us)):
            if not value > 0:
                raise ConfigError(field, value, "a number above 0")
        fixed_ms = latency_us / 1e3
        return cls(transfer=TransferCost(fixed_ms=fixed_ms, bytes_per_s=gb_per_s * 1e9), counts_ms=fixed_ms)

    @classmethod
    def of_machine(cls, machine: Machine) -> Link:
        """The link of a calibrated machine, or of one from a datasheet. Raises ConfigError if it has none."""
        if machine.link is None:
            raise ConfigError(
                "machine", machine.name, "one with a link: this one was measured with a single rank"
            )
        return cls(transfer=machine.link, counts_ms=machine.dispatch_exchanges_ms)

    def describe(self) -> dict[str, float]:
        """Return the link as data, for results."""
        return {"link_gb_s": self.transfer.bytes_per_s / 1e9, "link_latency_us": self.transfer.fixed_ms * 1e3}

    def exchange_ns(self, traffic_DD: Ints, pair_bytes: int) -> tuple[int, int]:
        """Nanoseconds of dispatch and of combine: those of the device that sends or receives most over the link."""
        if traffic_DD.shape[0] == 1:
            return 0, 0
        own_D = traffic_DD.diagonal()
        most = int(max((traffic_DD.sum(0) - own_D).max(), (traffic_DD.sum(1) - own_D).max()))
        combine_ms = float(self.transfer.time_ms(most * pair_bytes))
        return round((combine_ms + self.counts_ms) * 1e6), round(combine_ms * 1e6)


_EXCHANGES: tuple[Phase, Phase] = ("dispatch", "combine")


class EmulatedGroup(Group):
    """One of D ranks without the others: an all-to-all fills its output as theirs would, and takes no time of a link.

    expect(...) says what would arrive. Raises ConfigError for a policy that must know the other ranks' tokens.
    """

    def __init__(self, rank: int, num_devices: int, rows_RH: Tensor) -> None:
        super().__init__(rank, num_devices, torch.device("cpu"), timeout_s=60.0, health=None)
        self._rows_RH = rows_RH
        self._sent = self._arriving = torch.zeros(0, dtype=torch.long)

    def expect(self, sent: Tensor, arriving: Tensor) -> None:
        """Set the counts of the next exchange: rows for each slot of all devices, and for each own slot by source."""
        self._sent, self._arriving = sent, arriving

    def all_to_all(
        self, output: Tensor, input: Tensor, output_splits: Sequence[int], input_splits: Sequence[int]
    ) -> None:
        """Fill `output` with the counts that are expected, or with as many rows as it has room for."""
        if input.is_floating_point():
            output.copy_(self._rows_RH[: output.shape[0]])
            return
        assert torch.equal(input, self._sent), "the layer sends other counts than the routing that was drawn"
        output.copy_(self._arriving)

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum") -> None:
        """Raise ConfigError: nobody is there to add up with."""
        raise ConfigError(
            "scope", "global", "local in emulated mode: what others hold is not there; use --mode ranks"
        )

    def barrier(self) -> None:
        """Return at once: each device runs alone."""


@dataclass(frozen=True, eq=False)
class _Device:
    """One emulated device: its shard, its tokens and what its router is to say."""

    layer: OneLayer
    parallel: ExpertParallel
    group: EmulatedGroup
    hidden: Tensor
    answer: RouterAnswer

    def run(
        self, setting: Setting, routed: RoutedLayer, recorder: PhaseRecorder, step: int, seed: int
    ) -> None:
        """Run one pass of the device's part under the setting's policy."""
        self.group.expect(*_counts(routed.run_DDE, self.parallel, self.group.rank))
        self.layer.answer = None
        with attach(self.layer, setting.policy, parallel=self.parallel, min_tokens=1, seed=seed) as attached:
            self.layer.answer = self.answer
            with attached.timed(recorder), torch.inference_mode(), collector_paused():
                recorder.begin(step)
                self.layer(inputs_embeds=self.hidden)
                recorder.end()


@dataclass(frozen=True, kw_only=True, eq=False)
class EmulatedPasses:
    """One setting's passes by device, and passes composed of what each device's stretches took in the median, at best.

    Stretches are aligned as on D devices side by side: an exchange begins when its last device is ready and lasts as
    the link says; "wait" fills what is left. So all devices of a pass take the same time.
    """

    median_D: list[LayerRecord]
    best_D: list[LayerRecord]
    passes: list[list[LayerRecord]]


def run_emulated(
    job: LayerJob,
    routed: Sequence[RoutedLayer],
    link: Link,
    *,
    clock: Clock = time.perf_counter_ns,
    on_progress: OnProgress | None = None,
) -> list[EmulatedPasses]:
    """Run every device's part of every setting, one after the other; return the passes of each setting.

    clock: nanoseconds. `time.process_time_ns` counts this process's CPU time instead, which is the same with one thread
    on a quiet machine and is disturbed less on a busy one.
    """
    devices = _devices(job, routed)
    recorders = [PhaseRecorder(rank=rank, clock=clock) for rank in range(job.num_devices)]
    total = (job.repeats + 1) * len(job.settings)
    passes: list[list[list[LayerRecord]]] = [[] for _ in job.settings]
    for step in range(job.repeats + 1):
        for index, setting in enumerate(job.settings):
            if on_progress is not None:
                on_progress(setting.title, step * len(job.settings) + index, total)
            for device, recorder in zip(devices, recorders, strict=True):
                device.run(setting, routed[index], recorder, step, job.seed)
            passes[index].append([recorder.records.pop() for recorder in recorders])
    pair_bytes = job.shape.pair_bytes(job.dtype_name)
    return [
        _composed(counted[1:], link.exchange_ns(layer.traffic_DD, pair_bytes))
        for counted, layer in zip(passes, routed, strict=True)
    ]


def _composed(passes: Sequence[Sequence[LayerRecord]], exchange_ns: tuple[int, int]) -> EmulatedPasses:
    by_device = list(zip(*passes, strict=True))
    return EmulatedPasses(
        median_D=side_by_side([median_record(same) for same in by_device], *exchange_ns),
        best_D=side_by_side([best_record(same) for same in by_device], *exchange_ns),
        passes=[side_by_side(records_D, *exchange_ns) for records_D in passes],
    )


def side_by_side(records_D: Sequence[LayerRecord], dispatch_ns: int, combine_ns: int) -> list[LayerRecord]:
    """Return the devices' records on one clock from 0, with the exchanges and waits that devices side by side have.

    "dispatch" and "combine" last as given, whatever they took alone. Every device's segments then sum to the same time:
    that of the layer.
    """
    stages_D = [_stages(record) for record in records_D]
    aligned: list[list[Segment]] = [[] for _ in records_D]
    now_ns = 0
    for stage in range(3):
        longest = max(sum(segment.wall_ns for segment in stages[stage]) for stages in stages_D)
        for segments, stages in zip(aligned, stages_D, strict=True):
            _lay(segments, stages[stage], now_ns, longest)
        now_ns += longest
        if stage < 2:
            phase, exchange_ns = _EXCHANGES[stage], (dispatch_ns, combine_ns)[stage]
            for segments in aligned:
                segments.append(Segment(phase=phase, start_ns=now_ns, wall_ns=exchange_ns, cpu_ns=0))
            now_ns += exchange_ns
    return [
        replace(record, segments=tuple(segments)) for record, segments in zip(records_D, aligned, strict=True)
    ]


def _lay(segments: list[Segment], stage: Sequence[Segment], now_ns: int, longest: int) -> None:
    """Append a stage's segments from `now_ns` on, and the wait until the longest of all devices is done."""
    end_ns = now_ns + longest
    for segment in stage:
        segments.append(replace(segment, start_ns=now_ns))
        now_ns += segment.wall_ns
    segments.append(Segment(phase="wait", start_ns=now_ns, wall_ns=end_ns - now_ns, cpu_ns=0))


def _stages(record: LayerRecord) -> tuple[list[Segment], list[Segment], list[Segment]]:
    """What a device does before the dispatch, between the exchanges, and after the combine."""
    stages: tuple[list[Segment], list[Segment], list[Segment]] = ([], [], [])
    stage = 0
    for segment in merged(record.segments):
        if segment.phase in ("dispatch", "combine"):
            stage += 1
        else:
            stages[stage].append(segment)
    return stages


def _devices(job: LayerJob, routed: Sequence[RoutedLayer]) -> list[_Device]:
    """Build the devices. They share one set of expert weights, as large as the device with most experts needs."""
    routing = job.draw()
    most_rows = max(max(int(layer.load_D.max()), int(layer.traffic_DD.sum(1).max())) for layer in routed)
    rows_RH = random_hidden(max(most_rows, 1), job.shape, job.dtype, job.seed + 1)[0]
    hidden = random_hidden(job.num_tokens, job.shape, job.dtype, job.seed)
    devices = []
    for rank in range(job.num_devices):
        group = EmulatedGroup(rank, job.num_devices, rows_RH)
        layer, tokens = job.build(), job.tokens_of(rank)
        parallel = shard(layer, group, placement=job.placement)
        answer = layer.answer_for(routing, tokens)
        devices.append(_Device(layer, parallel, group, hidden[:, tokens].contiguous(), answer))
    largest = max(devices, key=lambda device: next(device.layer.experts_module.parameters()).shape[0])
    largest.layer.fill_experts(job.seed)
    for device in devices:
        device.layer.share_experts(largest.layer)
    return devices


def _counts(run_DDE: Ints, parallel: ExpertParallel, rank: int) -> tuple[Tensor, Tensor]:
    """Rows that a device sends to each slot (device by device, experts in order), and those that come to its own."""
    holds_DE = torch.from_numpy(parallel.placement.holds(0))
    run = torch.from_numpy(run_DDE)
    return run[rank][holds_DE], run[:, rank][:, holds_DE[rank]].reshape(-1)
