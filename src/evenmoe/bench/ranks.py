"""Ranks: the layer on real processes, each with its share of the experts and of the tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evenmoe import attach
from evenmoe.bench.block import OneLayer, random_hidden
from evenmoe.bench.job import LayerJob, OnProgress
from evenmoe.bench.phases import CudaPhaseRecorder, LayerRecord, PhaseRecorder, collector_paused, shifted
from evenmoe.bench.routed import RoutedLayer
from evenmoe.errors import ConfigError
from evenmoe.parallel import Group, launch, shard

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """What one rank brings home: its records [setting][pass], and the pairs of its tokens that ran [setting][E]."""

    records: list[list[LayerRecord]]
    run_E: list[list[int]]


def run_ranks(
    job: LayerJob,
    routed: Sequence[RoutedLayer],
    *,
    threads: int = 1,
    timeout_s: float = 120.0,
    on_progress: OnProgress | None = None,
) -> list[list[list[LayerRecord]]]:
    """Run the layer on a process per device; return the records [setting][pass][rank], on one clock.

    Raises ConfigError for fewer than two ranks, RankError where a rank fails or hangs. Nothing is left running.
    """
    if job.num_devices < 2:
        raise ConfigError("ranks", job.num_devices, "at least 2: one rank has nobody to wait for")
    results: list[RankResult] = launch(
        time_rank,
        num_ranks=job.num_devices,
        args=(job,),
        threads=threads,
        timeout_s=timeout_s,
        on_progress=on_progress,
    )
    for index, layer in enumerate(routed):
        ran_DE = [result.run_E[index] for result in results]
        assert ran_DE == layer.run_DE.tolist(), "the ranks ran other pairs than the routing that was drawn"
    return [
        [[result.records[index][step] for result in results] for step in range(job.repeats)]
        for index in range(len(job.settings))
    ]


def time_rank(group: Group, progress: Progress, job: LayerJob) -> RankResult:
    """Run this rank's part of every pass of every setting; the first pass of each is not kept."""
    layer, tokens = job.build(), job.tokens_of(group.rank)
    parallel = shard(layer, group, placement=job.placement)
    layer.fill_experts(job.seed + group.rank)
    layer.to(group.device)
    answer = layer.answer_for(job.draw(), tokens).to(group.device)
    hidden = random_hidden(tokens.stop - tokens.start, job.shape, job.dtype, job.seed + group.rank).to(
        group.device
    )
    recorder = _recorder(group)
    records: list[list[LayerRecord]] = [[] for _ in job.settings]
    run_E: list[list[int]] = [[] for _ in job.settings]
    total = (job.repeats + 1) * len(job.settings)
    origin_ns = group.all_gather_objects(time.perf_counter_ns())[
        0
    ]  # processes of one machine share this clock
    for step in range(job.repeats + 1):
        for index, setting in enumerate(job.settings):
            progress(setting.title, step * len(job.settings) + index, total)
            layer.answer = None  # attaching asks the router itself
            with attach(layer, setting.policy, parallel=parallel, min_tokens=1, seed=job.seed) as attached:
                layer.answer = answer
                with attached.timed(recorder), torch.inference_mode(), collector_paused():
                    _pass(group, layer, hidden, recorder, step)
                run_E[index] = attached.loads.total.after_LE[0].tolist()
            record = recorder.records.pop()
            if step > 0:
                records[index].append(record)
    return RankResult(records=[shifted(passes, origin_ns) for passes in records], run_E=run_E)


def _pass(group: Group, layer: OneLayer, hidden: Tensor, recorder: PhaseRecorder, step: int) -> None:
    group.barrier()
    recorder.begin(step)
    layer(inputs_embeds=hidden)
    group.barrier()
    recorder.mark("wait")  # the layer is done when its last rank is
    recorder.end()


def _recorder(group: Group) -> PhaseRecorder:
    kind = CudaPhaseRecorder if group.device.type == "cuda" else PhaseRecorder
    return kind(rank=group.rank, separates_waiting=True)
