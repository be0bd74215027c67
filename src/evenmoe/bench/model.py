"""bench_model: time a whole model under every setting, prefill and decode apart, by one of two modes."""

from __future__ import annotations

import numpy as np

from evenmoe.bench.emulated import Link
from evenmoe.bench.job import OnProgress
from evenmoe.bench.layer import CLOCKS
from evenmoe.bench.model_emulated import COMPOSITION, run_model_emulated
from evenmoe.bench.model_job import MODEL_MODES, ModelJob, ModelMode
from evenmoe.bench.model_ranks import run_model_ranks
from evenmoe.bench.model_results import ModelResults, make_model_rows
from evenmoe.bench.model_timed import TimedSetting
from evenmoe.bench.phases import shifted
from evenmoe.bench.trace import TracedPass
from evenmoe.errors import ConfigError, check_choice
from evenmoe.placement import Placement

_OF_RANKS = (
    "real processes on this machine, from barrier to barrier; every exchange is preceded by a barrier too"
)


def bench_model(
    job: ModelJob,
    mode: ModelMode,
    *,
    link: Link,
    threads: int = 1,
    clock: str = "wall",
    on_progress: OnProgress | None = None,
) -> tuple[ModelResults, list[TracedPass]]:
    """Time the model; return the rows and what every device did in its MoE layers when, for a trace.

    mode: "emulated" runs each device's rows through the model alone on this machine and computes the exchanges by
    `link`; "ranks" runs a real process per device with `threads` threads. clock: "cpu" has emulated devices timed by
    CPU time instead of wall time. Raises ConfigError for what cannot act.
    """
    check_choice("mode", mode, MODEL_MODES)
    check_choice("clock", clock, CLOCKS)
    if clock == "cpu" and (mode != "emulated" or threads != 1):
        raise ConfigError("clock", clock, "wall, unless the mode is emulated with one thread")
    config = job.describe() | {"threads": threads}
    if mode == "emulated":
        timed, placement = run_model_emulated(job, link, clock=CLOCKS[clock], on_progress=on_progress)
        config |= {"clock": clock} | link.describe()
        traced = _traced_in_turn(job, timed, placement)
    else:
        timed, placement = run_model_ranks(job, threads=threads, on_progress=on_progress)
        traced = _traced(job, timed, placement)
    results = ModelResults(
        mode=mode,
        composition=COMPOSITION if mode == "emulated" else _OF_RANKS,
        config=config,
        rows=make_model_rows(job, timed, placement),
    )
    return results, traced


def _traced(job: ModelJob, timed: list[TimedSetting], placement: Placement) -> list[TracedPass]:
    """All passes of real ranks, on their common clock."""
    traced = []
    for setting, one in zip(job.settings, timed, strict=True):
        pairs_CLD = _pairs(one, placement)
        for forwards in one.passes:
            for call, times in enumerate(forwards):
                for layer, records_D in enumerate(times.records_LD):
                    traced += [
                        TracedPass(record=record, label=setting.label, pairs=pairs_CLD[call][layer][device])
                        for device, record in enumerate(records_D)
                    ]
    return traced


def _traced_in_turn(job: ModelJob, timed: list[TimedSetting], placement: Placement) -> list[TracedPass]:
    """Emulated layers all begin at 0; in a trace they follow each other, a tenth apart."""
    traced, now_ns = [], 0
    for setting, one in zip(job.settings, timed, strict=True):
        pairs_CLD = _pairs(one, placement)
        for call, times in enumerate(one.shown):
            for layer, records_D in enumerate(times.records_LD):
                traced += [
                    TracedPass(record=record, label=setting.label, pairs=pairs_CLD[call][layer][device])
                    for device, record in enumerate(shifted(records_D, -now_ns))
                ]
                now_ns += round(records_D[0].wall_ns * 1.1)
    return traced


def _pairs(timed: TimedSetting, placement: Placement) -> list[list[list[int]]]:
    """[C][L][D]: pairs that each device's experts run."""
    run_CLE = np.sum([counts.run_CLE for counts in timed.counts_D], axis=0)
    return [
        [
            placement.device_load(load_E[: placement.num_experts(layer)], layer).round().astype(int).tolist()
            for layer, load_E in enumerate(run_LE)
        ]
        for run_LE in run_CLE
    ]
