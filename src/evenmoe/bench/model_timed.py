"""What a mode measured of one setting: the time of each forward on all devices, and each MoE layer's part of it.

Shape letters: L MoE layers, D devices, C calls (forwards of one pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median_low

from evenmoe.bench.model_pass import CallCounts, Forward
from evenmoe.bench.phases import LayerRecord


@dataclass(frozen=True, kw_only=True)
class CallTimes:
    """One forward of all devices: its time, and what was recorded of each layer on each device, [L][D]."""

    total_ns: int
    records_LD: list[list[LayerRecord]]

    @classmethod
    def of_ranks(cls, forwards_D: Sequence[Forward]) -> CallTimes:
        """From real ranks, which meet before and after: the slowest one's time."""
        layers = range(len(forwards_D[0].records))
        return cls(
            total_ns=max(forward.wall_ns for forward in forwards_D),
            records_LD=[[forward.records[layer] for forward in forwards_D] for layer in layers],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TimedSetting:
    """One setting: all passes [pass][C], those that stand for the prefill and for each decode step [C], and the counts
    of each device [D].
    """

    passes: list[list[CallTimes]]
    shown: list[CallTimes]
    counts_D: list[CallCounts]

    @classmethod
    def of_passes(cls, passes: list[list[CallTimes]], counts_D: list[CallCounts]) -> TimedSetting:
        """From real ranks: the prefill of median length stands for all, and the decode of median length."""
        prefill = _median_pass(passes, range(1))
        decode = _median_pass(passes, range(1, len(passes[0])))
        return cls(passes=passes, shown=prefill[:1] + decode[1:], counts_D=counts_D)

    def pass_ms(self, calls: range) -> list[float]:
        """Return the mean time of the forwards `calls` in each pass, in milliseconds."""
        return [mean_ms([forwards[call] for call in calls]) for forwards in self.passes]


def mean_ms(calls: Sequence[CallTimes]) -> float:
    """The mean time of forwards, in milliseconds."""
    return fmean(call.total_ns for call in calls) / 1e6


def _median_pass(passes: Sequence[list[CallTimes]], calls: range) -> list[CallTimes]:
    lengths = [sum(forwards[call].total_ns for call in calls) for forwards in passes]
    return passes[lengths.index(median_low(lengths))]
