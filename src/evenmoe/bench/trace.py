"""Chrome trace: what every rank did when, for chrome://tracing or ui.perfetto.dev."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evenmoe.bench.phases import LayerRecord


@dataclass(frozen=True, kw_only=True)
class TracedPass:
    """One pass of a layer on one rank, with what the viewer is told beside the times."""

    record: LayerRecord
    label: str
    pairs: int
    """Pairs that the rank's experts ran."""


def chrome_trace(passes: Sequence[TracedPass], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the passes as a Chrome trace: a process per rank, a complete event per segment, times in microseconds.

    Times are counted from the earliest pass. Each event's arguments are rank, layer, step, policy, and on expert work
    the pairs. Format: the Trace Event Format's JSON object form ("X" and "M" events).
    """
    starts = [traced.record.segments[0].start_ns for traced in passes if traced.record.segments]
    origin_ns = min(starts, default=0)
    ranks = sorted({traced.record.rank for traced in passes})
    events = [_process_name(rank) for rank in ranks]
    for traced in passes:
        events += _events(traced, origin_ns)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(metadata)}


def write_trace(trace: Mapping[str, Any], path: Path) -> Path:
    """Write a trace, replacing the file in one step. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(trace) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _process_name(rank: int) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}}


def _events(traced: TracedPass, origin_ns: int) -> list[dict[str, Any]]:
    record = traced.record
    common: dict[str, Any] = {
        "rank": record.rank,
        "layer": record.layer,
        "step": record.step,
        "policy": traced.label,
    }
    whole = {
        "name": traced.label,
        "cat": "layer",
        "ph": "X",
        "pid": record.rank,
        "tid": 0,
        "ts": (record.segments[0].start_ns - origin_ns) / 1e3,
        "dur": record.wall_ns / 1e3,
        "args": common | {"pairs": traced.pairs},
    }
    return [whole] + [
        {
            "name": segment.phase,
            "cat": "phase",
            "ph": "X",
            "pid": record.rank,
            "tid": 0,
            "ts": (segment.start_ns - origin_ns) / 1e3,
            "dur": segment.wall_ns / 1e3,
            "args": common
            | {"cpu_us": segment.cpu_ns / 1e3}
            | ({"pairs": traced.pairs} if segment.phase == "expert" else {}),
        }
        for segment in record.segments
    ]
