"""What dropping saves in one process: the whole hooked layer beside transformers' own, without dropping, in one run.

Shape letters: T tokens, H hidden size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from evenmoe import attach
from evenmoe.bench.block import Implementation, OneLayer, random_hidden
from evenmoe.bench.job import LayerJob, OnProgress, Setting

PLAIN: tuple[Implementation, ...] = ("eager", "grouped_mm")
"""transformers' implementations that take a layer of thousands of tokens; `batched_mm` copies weights per pair."""


@dataclass(frozen=True, kw_only=True)
class SavingRow:
    """One measured line; times are the medians of rounds in turn, in milliseconds of wall time.

    pairs_run: share of the T * K pairs that run. ratio: the time over that of the fastest plain layer, as the median
    over rounds. own_share: what the layer costs beyond its pairs, ratio - pairs_run.
    """

    label: str
    gamma: float | None
    implementation: str
    pairs_run: float
    layer_ms: float
    ratio: float
    own_share: float


@dataclass(frozen=True, kw_only=True)
class _Line:
    label: str
    gamma: float | None
    implementation: Implementation
    pairs_run: float
    run: Callable[[], float]


def bench_saving(job: LayerJob, on_progress: OnProgress | None = None) -> list[SavingRow]:
    """Time route, pack, experts and combine of one layer in this process, all devices virtual, against no hooks at all.

    The place of the settings' first one, the baseline, is taken by the plain layer under each of transformers'
    implementations. The others run with the fastest of them.
    """
    layer = job.build()
    layer.fill_experts(job.seed)
    routing = job.draw()
    layer.answer = layer.answer_for(routing)
    hidden = random_hidden(job.num_tokens, job.shape, job.dtype, job.seed)
    warm_ms = {name: _layer_ms(layer, hidden, name) for name in PLAIN * 2}  # the second time counts
    fastest = min(PLAIN, key=lambda name: warm_ms[name])
    lines = [
        _Line(
            label="plain",
            gamma=None,
            implementation=name,
            pairs_run=1.0,
            run=partial(_layer_ms, layer, hidden, name),
        )
        for name in PLAIN
    ]
    for setting, routed in zip(job.settings[1:], job.routed(routing)[1:], strict=True):
        lines.append(
            _Line(
                label=setting.label,
                gamma=setting.gamma,
                implementation=fastest,
                pairs_run=routed.pairs_run,
                run=partial(_hooked_ms, job, layer, hidden, setting, fastest),
            )
        )
    times_ms: list[list[float]] = [[] for _ in lines]
    for step in range(job.repeats):
        for index, line in enumerate(lines):
            if on_progress is not None:
                on_progress(line.label, step * len(lines) + index, job.repeats * len(lines))
            times_ms[index].append(line.run())
    reference_ms = times_ms[PLAIN.index(fastest)]
    return [_row(line, times, reference_ms) for line, times in zip(lines, times_ms, strict=True)]


def _row(line: _Line, times_ms: list[float], reference_ms: list[float]) -> SavingRow:
    ratio = median(time_ms / other for time_ms, other in zip(times_ms, reference_ms, strict=True))
    return SavingRow(
        label=line.label,
        gamma=line.gamma,
        implementation=line.implementation,
        pairs_run=line.pairs_run,
        layer_ms=median(times_ms),
        ratio=ratio,
        own_share=ratio - line.pairs_run,
    )


def _hooked_ms(
    job: LayerJob, layer: OneLayer, hidden: Tensor, setting: Setting, implementation: Implementation
) -> float:
    answer, layer.answer = layer.answer, None  # attaching checks the scores with a call of the real router
    with attach(layer, setting.policy, num_devices=job.num_devices, placement=job.placement, seed=job.seed):
        layer.answer = answer
        return _layer_ms(layer, hidden, implementation)


def _layer_ms(layer: OneLayer, hidden: Tensor, implementation: Implementation) -> float:
    with _runs_experts_by(layer, implementation), torch.inference_mode():
        start = time.perf_counter()
        layer.block(hidden)
        return (time.perf_counter() - start) * 1e3


@contextmanager
def _runs_experts_by(layer: OneLayer, name: Implementation) -> Iterator[None]:
    before, layer.config._experts_implementation = layer.config._experts_implementation, name
    try:
        yield
    finally:
        layer.config._experts_implementation = before
