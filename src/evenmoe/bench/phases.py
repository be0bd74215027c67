"""Phases: where the time of an MoE layer goes, by successive marks, so that the phases tile the layer.

All times are whole nanoseconds until they are summarised: the phases of a layer sum to its time exactly.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any, Literal, get_args

from evenmoe.errors import AttachError, check_choice
from evenmoe.models.stopwatch import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
Clock = Callable[[], int]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of one phase: when it began and how long it took, on the wall and of this process's CPU."""

    phase: Phase
    start_ns: int
    wall_ns: int
    cpu_ns: int


@dataclass(frozen=True, kw_only=True)
class LayerRecord:
    """One pass of one layer on one rank; the segments follow each other without a gap."""

    rank: int
    step: int
    layer: int
    segments: tuple[Segment, ...]

    @property
    def wall_ns(self) -> int:
        """The layer's time: from the first mark's start to the last mark."""
        return sum(segment.wall_ns for segment in self.segments)

    def by_phase(self, measure: Literal["wall", "cpu"] = "wall") -> dict[Phase, int]:
        """Nanoseconds of each phase, 0 where it did not occur."""
        total = dict.fromkeys(PHASES, 0)
        for segment in self.segments:
            total[segment.phase] += segment.wall_ns if measure == "wall" else segment.cpu_ns
        return total


class PhaseRecorder:
    """A Stopwatch that keeps every mark. One per process; not for several threads.

    rank: written into the records. separates_waiting: ask deliveries for a barrier before each exchange, so that what
    is waited for slower ranks is told apart from what is sent. The clocks return nanoseconds; tests give their own.

    A layer lasts from `start` to `stop`. Between `begin` and `end` it lasts from one to the other, so that what a block
    does before its router or after its experts counts too, as "rest".
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        separates_waiting: bool = False,
        clock: Clock = time.perf_counter_ns,
        cpu_clock: Clock = time.process_time_ns,
    ) -> None:
        self.rank, self.separates_waiting = rank, separates_waiting
        self.records: list[LayerRecord] = []
        self.step = 0
        self._clock, self._cpu_clock = clock, cpu_clock
        self._segments: list[Segment] | None = None
        self._layer, self._begun = 0, False
        self._last_ns = self._last_cpu_ns = 0

    def begin(self, step: int) -> None:
        """Note that a block of one MoE layer is about to run, as its `step`-th pass."""
        self.step, self._begun = step, True
        self._open()

    def end(self) -> None:
        """Note that the block has returned. Raises AttachError if no `begin` came before."""
        if not self._begun:
            raise AttachError("the stopwatch was ended before it began")
        self._begun = False
        self._close()

    def start(self, layer: int) -> None:
        """Note that the layer's router is about to run."""
        self._layer = layer
        if self._begun:
            self.mark("rest")
        else:
            self._open()

    def mark(self, phase: Phase) -> None:
        """The time since the last start or mark was this phase. Outside a layer nothing is noted."""
        check_choice("phase", phase, PHASES)
        if self._segments is None:
            return
        now_ns, cpu_ns = self._clock(), self._cpu_clock()
        self._segments.append(
            Segment(
                phase=phase,
                start_ns=self._last_ns,
                wall_ns=now_ns - self._last_ns,
                cpu_ns=cpu_ns - self._last_cpu_ns,
            )
        )
        self._last_ns, self._last_cpu_ns = now_ns, cpu_ns

    def stop(self) -> None:
        """Note that the layer's output is there."""
        if not self._begun:
            self._close()

    def _open(self) -> None:
        self._segments = []
        self._last_ns, self._last_cpu_ns = self._clock(), self._cpu_clock()

    def _close(self) -> None:
        if self._segments is None:
            return
        self.mark("rest")
        record = LayerRecord(
            rank=self.rank, step=self.step, layer=self._layer, segments=tuple(self._segments)
        )
        self.records.append(record)
        self._segments = None


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector, whose full runs take tens of milliseconds, out of what is timed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def shifted(records: Iterable[LayerRecord], origin_ns: int) -> list[LayerRecord]:
    """Return the records with times counted from `origin_ns`, on the clock that they were taken with."""
    return [
        replace(
            record,
            segments=tuple(
                replace(segment, start_ns=segment.start_ns - origin_ns) for segment in record.segments
            ),
        )
        for record in records
    ]


def merged(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return the segments with neighbours of the same phase made one."""
    whole: list[Segment] = []
    for segment in segments:
        if whole and whole[-1].phase == segment.phase:
            whole[-1] = replace(
                whole[-1],
                wall_ns=whole[-1].wall_ns + segment.wall_ns,
                cpu_ns=whole[-1].cpu_ns + segment.cpu_ns,
            )
        else:
            whole.append(segment)
    return tuple(whole)


def median_record(records: Sequence[LayerRecord]) -> LayerRecord:
    """Return one record whose segments last the median over passes that went through the same phases.

    Segments follow each other from the first record's start. Raises AttachError if the passes differ in their phases.
    """
    return _joined(records, median)


def best_record(records: Sequence[LayerRecord]) -> LayerRecord:
    """The same with the shortest that each segment took."""
    return _joined(records, min)


def _joined(records: Sequence[LayerRecord], choose: Callable[[list[int]], float]) -> LayerRecord:
    passes = [merged(record.segments) for record in records]
    order = [segment.phase for segment in passes[0]]
    if any([segment.phase for segment in segments] != order for segments in passes):
        raise AttachError("the passes of a layer went through different phases")
    now_ns, segments = passes[0][0].start_ns, []
    for same in zip(*passes, strict=True):
        wall_ns = round(choose([segment.wall_ns for segment in same]))
        cpu_ns = round(choose([segment.cpu_ns for segment in same]))
        segments.append(Segment(phase=same[0].phase, start_ns=now_ns, wall_ns=wall_ns, cpu_ns=cpu_ns))
        now_ns += wall_ns
    return replace(records[0], segments=tuple(segments))


def to_ms(by_phase: dict[Phase, int]) -> dict[str, float]:
    """Nanoseconds of each phase as milliseconds."""
    return {str(phase): by_phase[phase] / 1e6 for phase in PHASES}


def mean_phases(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each phase over ranks."""
    return {str(phase): fmean(row[phase] for row in rows) for phase in PHASES}


class CudaPhaseRecorder(PhaseRecorder):
    """The same on a GPU: a mark is an event on the current stream, read when the layer ends. Not run here.

    Ending a layer waits for the GPU, so layers do not overlap with what follows; CPU time is that of the launches.
    """

    def __init__(self, *, rank: int = 0, separates_waiting: bool = False) -> None:
        super().__init__(rank=rank, separates_waiting=separates_waiting)
        self._events: list[Any] = []

    def _open(self) -> None:
        super()._open()
        self._events = [_event()]

    def mark(self, phase: Phase) -> None:
        """The time since the last start or mark was this phase, on the GPU's own clock."""
        super().mark(phase)
        if self._segments is not None:
            self._events.append(_event())

    def _close(self) -> None:
        open_segments = self._segments
        super()._close()
        if open_segments is None:
            return
        self._events[-1].synchronize()
        record = self.records.pop()
        now_ns, segments = record.segments[0].start_ns, []
        for index, segment in enumerate(record.segments):
            wall_ns = round(self._events[index].elapsed_time(self._events[index + 1]) * 1e6)
            segments.append(replace(segment, start_ns=now_ns, wall_ns=wall_ns))
            now_ns += wall_ns
        self.records.append(replace(record, segments=tuple(segments)))


def _event() -> Any:
    import torch

    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
