"""Ranks: the whole model on real processes, each with its share of the experts and its own rows."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from transformers.utils import logging as transformers_logging

from evenmoe import attach
from evenmoe.bench.job import OnProgress, Setting
from evenmoe.bench.model_job import ModelJob
from evenmoe.bench.model_pass import CallCounts, Forward, ModelClock
from evenmoe.bench.model_random import RandomModel
from evenmoe.bench.model_routers import RouterOutput, Routers, rows_of
from evenmoe.bench.model_timed import CallTimes, TimedSetting
from evenmoe.bench.phases import CudaPhaseRecorder, PhaseRecorder, shifted
from evenmoe.errors import ConfigError
from evenmoe.parallel import Group, launch, shard
from evenmoe.placement import Placement

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class RankTimes:
    """What one rank brings home: forwards [setting][pass][C], counts [setting], and where the experts are."""

    forwards: list[list[list[Forward]]]
    counts: list[CallCounts]
    placement: Placement


def run_model_ranks(
    job: ModelJob, *, threads: int = 1, timeout_s: float = 120.0, on_progress: OnProgress | None = None
) -> tuple[list[TimedSetting], Placement]:
    """Run the model on a process per device; return what each setting took and where the experts were.

    Raises ConfigError for fewer than two ranks, RankError where a rank fails or hangs. Nothing is left running.
    """
    if job.num_devices < 2:
        raise ConfigError("ranks", job.num_devices, "at least 2: one rank has nobody to wait for")
    ranks: list[RankTimes] = launch(
        time_model_rank,
        num_ranks=job.num_devices,
        args=(job,),
        threads=threads,
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    timed = [
        TimedSetting.of_passes(
            [
                [
                    CallTimes.of_ranks([rank.forwards[index][step][call] for rank in ranks])
                    for call in range(job.num_calls)
                ]
                for step in range(job.repeats)
            ],
            [rank.counts[index] for rank in ranks],
        )
        for index in range(len(job.settings))
    ]
    return timed, ranks[0].placement


def time_model_rank(group: Group, progress: Progress, job: ModelJob) -> RankTimes:
    """Run this rank's part of every pass of every setting; the first pass of each counts pairs instead of time."""
    transformers_logging.disable_progress_bar()  # else each rank draws one per checkpoint
    rank = _Rank(group, job)
    forwards: list[list[list[Forward]]] = [[] for _ in job.settings]
    counts = [CallCounts(job.num_calls, rank.parallel.num_experts_L) for _ in job.settings]
    total = (job.repeats + 1) * len(job.settings)
    group.barrier()
    origin_ns = time.perf_counter_ns()  # the one moment that all ranks know
    gc.disable()
    for step in range(job.repeats + 1):
        for index, setting in enumerate(job.settings):
            progress(setting.label, step * len(job.settings) + index, total)
            done = rank.run(setting, counts[index] if step == 0 else None)
            if step > 0:
                forwards[index].append([_shifted(forward, origin_ns) for forward in done])
        gc.collect()
    gc.enable()
    return RankTimes(forwards=forwards, counts=counts, placement=rank.parallel.placement)


class _Rank:
    """One rank's model with its share of the experts, its rows, and what its routers are to say."""

    def __init__(self, group: Group, job: ModelJob) -> None:
        self._job = job
        self._model = job.source.build()
        self._routers = Routers(self._model)
        self.parallel = shard(self._model, group, placement=job.placement)
        self._said: list[list[RouterOutput]] | None = None
        if isinstance(job.source, RandomModel):
            job.source.fill_experts(self._model, job.seed + group.rank)
            self._said = _own_answers(job, job.source, self._model, group)
        self._model.to(group.device)
        self._ids_BS = job.ids_BS[job.rows_of(group.rank)].to(group.device)
        kind = CudaPhaseRecorder if group.device.type == "cuda" else PhaseRecorder
        recorder = kind(rank=group.rank, separates_waiting=True)
        self._clock = ModelClock(self._model, recorder, lambda: _sync(group))

    def run(self, setting: Setting, counts: CallCounts | None) -> list[Forward]:
        """Run one pass under the setting's policy; count its pairs where asked to."""

        def before_call(call: int) -> None:
            self._routers.give(None if self._said is None else self._said[call])
            if counts is not None:
                counts.call = call

        self._routers.give(None)  # attaching asks the routers themselves
        with ExitStack() as stack:
            attached = stack.enter_context(
                attach(
                    self._model,
                    setting.policy,
                    parallel=self.parallel,
                    min_tokens=self._job.min_tokens,
                    seed=self._job.seed,
                    pad_token_id=-1,
                )
            )
            stack.enter_context(attached.timed(self._clock.recorder))
            if counts is not None:
                stack.enter_context(attached.observed(counts))
            return self._clock.run(self._ids_BS, self._job.num_prompt, before_call)


def _own_answers(
    job: ModelJob, source: RandomModel, model: torch.nn.Module, group: Group
) -> list[list[RouterOutput]]:
    """Return [C][L]: what the routers say about this rank's tokens, on its device."""
    whole = source.answers(model, job.num_tokens_C)
    own = [rows_of(outputs, job.tokens_of(group.rank, call)) for call, outputs in enumerate(whole)]
    return [[tuple(part.to(group.device) for part in output) for output in outputs] for outputs in own]


def _sync(group: Group) -> None:
    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)
    group.barrier()


def _shifted(forward: Forward, origin_ns: int) -> Forward:
    return replace(
        forward,
        start_ns=forward.start_ns - origin_ns,
        records=tuple(shifted(forward.records, origin_ns)),
    )
