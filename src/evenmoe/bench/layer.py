"""bench_layer: time one MoE layer under every setting, by one of three modes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from evenmoe.bench.emulated import Link, run_emulated
from evenmoe.bench.job import MODES, LayerJob, Mode, OnProgress
from evenmoe.bench.phases import Clock, LayerRecord, shifted
from evenmoe.bench.ranks import run_ranks
from evenmoe.bench.results import LayerResults, Timed, make_rows
from evenmoe.bench.routed import RoutedLayer
from evenmoe.bench.trace import TracedPass
from evenmoe.costs import LayerPrediction, predict_layer
from evenmoe.costs.machine import Machine
from evenmoe.errors import ConfigError, check_choice

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}


def bench_layer(
    job: LayerJob,
    mode: Mode,
    *,
    link: Link,
    machine: Machine | None = None,
    threads: int = 1,
    clock: str = "wall",
    on_progress: OnProgress | None = None,
) -> tuple[LayerResults, list[TracedPass]]:
    """Time the layer; return the rows and what every device did when, for a trace.

    mode: "emulated" runs each device's part alone on this machine and computes the exchanges by `link`; "ranks" runs a
    real process per device with `threads` threads; "predicted" runs nothing and asks `machine`. A machine also puts its
    prediction beside what the other two measure. clock: "cpu" has emulated devices timed by CPU time instead of wall
    time. Raises ConfigError for a mode that lacks what it needs.
    """
    check_choice("mode", mode, MODES)
    if mode == "predicted" and machine is None:
        raise ConfigError("machine", None, "a machine file or name, in predicted mode")
    check_choice("clock", clock, CLOCKS)
    if clock == "cpu" and (mode != "emulated" or threads != 1):
        raise ConfigError("clock", clock, "wall, unless the mode is emulated with one thread")
    routed = job.routed(job.draw())
    predicted = None if machine is None else _predicted(job, routed, machine, barriers=mode == "ranks")
    config = job.describe() | {"machine": None if machine is None else machine.name}
    traced: list[TracedPass] = []
    if mode == "ranks":
        records = run_ranks(job, routed, threads=threads, on_progress=on_progress)
        timed = [Timed.of_passes(passes) for passes in records]
        config |= {"threads": threads}
        traced = _traced(job, routed, records)
    elif mode == "emulated":
        emulated = run_emulated(job, routed, link, clock=CLOCKS[clock], on_progress=on_progress)
        timed = [Timed.of_emulated(passes) for passes in emulated]
        config |= {"threads": threads, "clock": clock} | link.describe()
        traced = _in_turn(job, routed, [passes.median_D for passes in emulated])
    else:
        timed = [Timed.of_prediction(prediction) for prediction in predicted or ()]
    return LayerResults(mode=mode, config=config, rows=make_rows(job, routed, timed, predicted)), traced


def _predicted(
    job: LayerJob, routed: Sequence[RoutedLayer], machine: Machine, *, barriers: bool
) -> list[LayerPrediction]:
    return [
        predict_layer(
            machine,
            job.shape,
            load_DE=layer.run_DE,
            tokens_D=layer.tokens_D,
            placement_holds_DE=job.placement.holds(0),
            policy=setting.policy.name,
            dtype=job.dtype_name,
            barriers=barriers,
        )
        for setting, layer in zip(job.settings, routed, strict=True)
    ]


def _in_turn(
    job: LayerJob, routed: Sequence[RoutedLayer], shown: Sequence[list[LayerRecord]]
) -> list[TracedPass]:
    """Emulated passes all begin at 0; in a trace they follow each other, a tenth apart."""
    traced, now_ns = [], 0
    for setting, layer, records_D in zip(job.settings, routed, shown, strict=True):
        traced += [
            TracedPass(record=record, label=setting.title, pairs=int(layer.load_D[record.rank]))
            for record in shifted(records_D, -now_ns)
        ]
        now_ns += round(records_D[0].wall_ns * 1.1)
    return traced


def _traced(
    job: LayerJob, routed: Sequence[RoutedLayer], records: Sequence[Sequence[Sequence[LayerRecord]]]
) -> list[TracedPass]:
    return [
        TracedPass(record=record, label=setting.title, pairs=int(layer.load_D[record.rank]))
        for setting, layer, passes in zip(job.settings, routed, records, strict=True)
        for records_D in passes
        for record in records_D
    ]
