"""Benchmark: the scheduling of a step inside vLLM's scheduler, with evenmoe's strategies and without evenmoe."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

from evenmoe.serving.admission.benchmark import BenchRow, Case, bench_admission
from evenmoe.serving.admission.workload import Prompt, even_snapshot
from evenmoe.serving.config import SchedulingConfig
from evenmoe.serving.observation.loads_file import write_loads_snapshot
from evenmoe.serving.observation.spool import ENVIRONMENT, Spool
from evenmoe.serving.vllm.modelless import made_up_output, new_request, new_scheduler
from evenmoe.serving.vllm.scheduler import ExpertAwareScheduler


class VllmEngine:
    """vLLM's scheduler with room for all; without a predictor it is vLLM's own, untouched."""

    def __init__(self, case: Case, config: SchedulingConfig, folder: Path) -> None:
        self._case, self._num_submitted, self._num_tokens = case, 0, 0
        self._spool = Spool(Path(tempfile.mkdtemp(dir=folder)))
        os.environ[ENVIRONMENT] = str(self._spool.folder)
        write_loads_snapshot(even_snapshot(case.shape, 0), self._spool)
        settings = {
            "scheduling": config.model_dump(mode="json"),
            "routing": {"num_devices": case.num_devices},
        }
        self._scheduler: Any = new_scheduler(
            Scheduler if config.predictor == "none" else ExpertAwareScheduler,
            folder,
            {"evenmoe": settings},
            num_blocks=100_000,
            max_num_seqs=case.running,
            max_num_batched_tokens=case.step_tokens,
            caching=True,
        )

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._scheduler.waiting)

    def step(self, new: Sequence[Prompt], observed: bool) -> float:
        """See Engine: new requests are told to the scheduler, and a step is decided."""
        scheduler = self._scheduler
        if observed:
            write_loads_snapshot(even_snapshot(self._case.shape, self._num_tokens), self._spool)
        requests = []
        for prompt in new:
            requests.append(new_request(self._num_submitted, prompt.ids, max_tokens=prompt.new_tokens))
            self._num_submitted += 1
        start = time.thread_time()
        for request in requests:
            scheduler.add_request(request)
        output = scheduler.schedule()
        seconds = time.thread_time() - start
        self._num_tokens += output.total_num_scheduled_tokens
        scheduler.update_from_output(output, made_up_output(scheduler, output))
        return seconds


def bench_vllm(
    cases: Sequence[Case],
    strategies: Sequence[str],
    steps: int,
    seed: int,
    on_case: Callable[[Case], None] = lambda case: None,
) -> list[BenchRow]:
    """`bench_admission` inside vLLM: a step's time is all of `schedule`, and what `add_request` took before it.

    "fcfs, no predictor" is vLLM's own scheduler, so that `added_ms` is what evenmoe costs. Raises ConfigError.
    """
    before = os.environ.get(ENVIRONMENT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return bench_admission(
                cases,
                strategies,
                steps,
                seed,
                lambda case, config: VllmEngine(case, config, Path(folder)),
                on_case,
            )
    finally:
        os.environ.pop(ENVIRONMENT)
        if before is not None:
            os.environ[ENVIRONMENT] = before
