"""Experts on two processes: the study runs, counts what one process counts, and every process ends."""

import multiprocessing

import numpy as np
import pytest

from evenmoe.live.prompts import Prompts
from evenmoe.live.ranks import RanksJob, run_live_ranks
from evenmoe.live.study import LiveSettings
from evenmoe.live.timing import fit_batch_time
from evenmoe.scheduling import SchedulerConfig


class Even:
    """Predicts an even load of the tiny model."""

    def predict(self, ids_T):
        return np.full((2, 8), len(ids_T) * 2 / 8)


@pytest.mark.slow
def test_two_processes_serve_a_queue_together(tiny_checkpoint):
    rng = np.random.default_rng(0)
    asked = {name: tuple(rng.integers(2, 300, size=6) for _ in range(6)) for name in ("a", "b")}
    settings = LiveSettings(
        strategies=("fcfs",),
        num_requests=8,
        rate_per_s=200.0,
        scheduler=SchedulerConfig(max_batch_size=2, window_size=4, min_batch_trigger=2),
    )
    said = []
    job = RanksJob(
        path=str(tiny_checkpoint),
        dtype="float32",
        quantization=None,
        settings=settings,
        prompts=Prompts(by_topic=asked),
        predictor=Even(),
        placement=None,
    )
    results = run_live_ranks(job, 2, on_progress=lambda *what: said.append(what))
    (result,) = results.results
    assert result.measured.finished == 8
    assert 1 <= result.measured.straggler_factor <= 2
    assert result.measured.throughput_requests_s > 0
    assert said[-1] == ("fcfs", 8, 8)
    assert not multiprocessing.active_children()


def test_what_the_busiest_device_costs_is_found_in_the_times():
    rng = np.random.default_rng(0)
    tokens, peaks = rng.integers(10, 1000, size=40), rng.uniform(100, 900, size=40)
    found = fit_batch_time(tokens, 0.02 + 1e-4 * tokens + 3e-5 * peaks, peaks)
    assert found.per_peak_pair_s == pytest.approx(3e-5)
    assert found.per_token_s == pytest.approx(1e-4)
    assert found.fixed_s == pytest.approx(0.02)
    assert fit_batch_time(tokens, 0.02 + 1e-4 * tokens - 1e-6 * peaks, peaks).per_peak_pair_s == 0.0
