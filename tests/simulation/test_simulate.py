"""The whole simulator: against queueing formulas, against slow versions of itself, and what holds for any run."""

import json
import math
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation import Continuous, CvExecution, Static, simulate
from evenmoe.simulation.metrics import Meter
from tests.oracles import simulation as slow
from tests.simulation.small import Listed, Serves, Steady

ONE_BY_ONE = SchedulerConfig(strategy="fcfs", max_batch_size=1, window_size=1, min_batch_trigger=1)
EVEN = [0.5, 0.5, 0.5, 0.5]


def exponential(seed, mean_s=1.0):
    """Service times by request number, drawn in order."""
    rng = np.random.default_rng([seed, 2])
    return lambda number: float(rng.exponential(mean_s))


def mean_wait(load, requests, seeds, service_of):
    waits = [
        simulate(
            Steady(load), Serves(service_of(seed)), ONE_BY_ONE, seed=seed, num_requests=requests
        ).wait_mean_s
        for seed in seeds
    ]
    return float(np.mean(waits))


@pytest.mark.slow
def test_waits_of_m_m_1_follow_the_formula():
    """Mean wait rho / (mu - lambda); 300,000 requests, whose mean has a standard error of 1.0% at rho 0.5."""
    assert mean_wait(0.5, 100_000, (1, 2, 3), exponential) == pytest.approx(1.0, rel=0.02)


@pytest.mark.slow
def test_waits_of_m_d_1_follow_the_formula():
    """Half that of M/M/1; 150,000 requests, whose mean has a standard error of 0.9% at rho 0.5."""
    constant = lambda seed: lambda number: 1.0  # noqa: E731
    assert mean_wait(0.5, 75_000, (1, 2), constant) == pytest.approx(0.5, rel=0.02)


def test_waits_of_one_server_are_lindleys_exactly():
    count, seed = 3000, 5
    rng = np.random.default_rng([seed, 2])
    service = rng.exponential(1.0, count).tolist()
    requests = Steady(0.8).requests(seed)
    arrived = [next(requests).arrived_s for _ in range(count)]
    found = simulate(Steady(0.8), Serves(service.__getitem__), ONE_BY_ONE, seed=seed, num_requests=count)
    waits = slow.lindley(arrived, service)
    np.testing.assert_allclose(found.latency_s, np.add(waits, service), rtol=1e-9, atol=1e-9)
    assert found.wait_mean_s == pytest.approx(np.mean(waits))
    assert found.queue_depth_mean * found.seconds == pytest.approx(sum(waits)), (
        "Little's law, without an average"
    )
    assert found.seconds == pytest.approx(arrived[-1] + found.latency_s[-1] - arrived[0])
    assert found.utilisation == pytest.approx(sum(service) / found.seconds)
    assert not found.overloaded


moments = st.lists(st.integers(0, 400), min_size=1, max_size=40).map(
    # no two of these moments, nor sums of them with service times of .29 and an interval of .13, coincide
    lambda gaps: (np.cumsum(gaps) * 0.01 + np.arange(len(gaps)) * 1e-5).tolist()
)


@settings(max_examples=60)
@given(moments, st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 0.13007, 2.00311]))
def test_static_batches_of_fcfs_are_the_oracles(arrived, size, trigger, interval_s):
    service_s = lambda number: 0.2900137 + 0.03300171 * (number % 7)  # noqa: E731
    config = SchedulerConfig(
        strategy="fcfs",
        max_batch_size=size,
        window_size=size,
        min_batch_trigger=trigger,
        scheduling_interval_ms=interval_s * 1000,
    )
    workload = Listed([(moment, 1, 1, EVEN) for moment in arrived])
    found = simulate(workload, Serves(service_s), config)
    expected = slow.static_fcfs(arrived, service_s, size, trigger, interval_s)
    np.testing.assert_allclose(found.latency_s, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=80)
@given(moments, st.data(), st.integers(1, 5), st.integers(0, 20), st.sampled_from([None, 1, 3, 50]))
def test_continuous_batches_of_fcfs_are_the_oracles(arrived, data, running, more_budget, chunk):
    lengths = st.tuples(st.integers(1, 30), st.integers(1, 12))
    tokens = data.draw(st.lists(lengths, min_size=len(arrived), max_size=len(arrived)))
    rows = [(moment, *both) for moment, both in zip(arrived, tokens, strict=True)]
    machine = CvExecution(
        sensitivity=0.0,
        prefill_s=0.0210013,
        prefill_token_s=0.0100017,
        decode_s=0.0310019,
        decode_token_s=1e-6,
    )
    budget = running + more_budget

    def step_s(step):
        prefill, decode = [n for _, n in step if n > 1], [n for _, n in step if n == 1]
        fixed_s = machine.prefill_s * bool(prefill) + machine.decode_s * bool(decode)
        return fixed_s + machine.prefill_token_s * sum(prefill) + machine.decode_token_s * len(decode)

    found = simulate(
        Listed([(*row, EVEN) for row in rows]),
        machine,
        SchedulerConfig(strategy="fcfs", max_passed_over=0),
        batching=Continuous(max_running=running, token_budget=budget, chunk_tokens=chunk),
    )
    first, last = slow.continuous_fcfs(rows, step_s, running, budget, chunk or budget)
    np.testing.assert_allclose(found.latency_s, last, rtol=1e-9, atol=1e-9)
    assert found.ttft_mean_s == pytest.approx(np.mean(first))


@st.composite
def runs(draw):
    """A small workload, and a way to serve it."""
    gap = st.sampled_from([0.0, 0.0, 0.001, 0.05, 3.0])
    load = st.lists(st.integers(0, 4), min_size=4, max_size=4)
    row = st.tuples(gap, st.integers(1, 12), st.integers(1, 6), load)
    rows, now_s = [], 0.0
    for gap_s, prompt, output, load_E in draw(st.lists(row, min_size=1, max_size=40)):
        now_s += gap_s
        rows.append((now_s, prompt, output, load_E))
    batching = draw(
        st.sampled_from(
            [
                Static(),
                Continuous(max_running=3, token_budget=5),
                Continuous(max_running=8, token_budget=64, chunk_tokens=4),
            ]
        )
    )
    config = SchedulerConfig(
        strategy=draw(st.sampled_from(STRATEGIES)),
        max_batch_size=draw(st.integers(1, 4)),
        window_size=draw(st.integers(4, 12)),
        min_batch_trigger=draw(st.integers(1, 6)),
        max_passed_over=draw(st.integers(0, 4)),
    )
    return Listed(rows), batching, config


class Watch(Meter):
    """A meter that keeps the moments at which it was told something, and who finished."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.moments, self.done = [], []
        Watch.last = self

    def arrived(self, request, now_s):
        self.moments.append(now_s)
        super().arrived(request, now_s)

    def taken(self, number, now_s):
        self.moments.append(now_s)
        super().taken(number, now_s)

    def ran(self, cost, now_s):
        self.moments.append(now_s)
        super().ran(cost, now_s)

    def finished(self, request, passed_over, begun_s, first_token_s, last_token_s):
        assert request.arrived_s - 1e-9 <= begun_s < first_token_s <= last_token_s + 1e-9
        self.done.append((request.number, passed_over))
        super().finished(request, passed_over, begun_s, first_token_s, last_token_s)


@settings(max_examples=120)
@given(runs())
def test_every_request_finishes_once_and_time_never_runs_back(run):
    workload, batching, config = run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["evenmoe.simulation.simulate"], "Meter", Watch)
        machine = Serves(lambda number: 0.011 + 0.003 * (number % 5))
        found = simulate(workload, machine, config, batching=batching)
    watch, count = Watch.last, len(workload.rows)
    assert sorted(number for number, _ in watch.done) == list(range(count))
    assert watch.moments == sorted(watch.moments)
    assert max(passed_over for _, passed_over in watch.done) <= max(
        config.max_passed_over, config.window_size
    )
    assert (found.requests, found.finished, found.ended) == (count, count, "all finished")
    assert found.latency_s.shape == (count,)
    assert (found.latency_s > 0).all()
    if isinstance(batching, Static):
        assert sorted(chain(*machine.batches)) == list(range(count)), "each in one batch"
        assert max(map(len, machine.batches)) <= config.max_batch_size
        assert found.queue_depth_mean * found.seconds == pytest.approx(found.wait_mean_s * count, abs=1e-6)


@settings(max_examples=60)
@given(runs())
def test_continuous_batches_keep_their_limits_and_compute_every_token_once(run):
    workload, _, config = run
    batching = Continuous(max_running=4, token_budget=9, chunk_tokens=5)
    machine = Serves(lambda number: 0.011)
    with pytest.MonkeyPatch.context() as patch:
        # one iteration at a time, so that the machine sees them all
        patch.setattr(Continuous, "_repeats", lambda *arguments: 1)
        found = simulate(workload, machine, config, batching=batching)
    computed = dict.fromkeys(range(len(workload.rows)), 0)
    for step in machine.batches:
        assert len(step) <= 4
        assert sum(tokens for _, tokens in step) <= 9
        assert all(1 <= tokens <= 5 for _, tokens in step)
        for number, tokens in step:
            computed[number] += tokens
    for number, (_, prompt, output, _) in enumerate(workload.rows):
        assert computed[number] == prompt + output - 1
    together = simulate(workload, Serves(lambda number: 0.011), config, batching=batching)
    np.testing.assert_allclose(together.latency_s, found.latency_s, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "batching", [Static(), Continuous(max_running=8, token_budget=64)], ids=["static", "continuous"]
)
@pytest.mark.parametrize("strategy", ["fcfs", "power_of_d", "peak_excess"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(batching, strategy):
    def bytes_of(seed):
        found = simulate(
            Steady(150.0, 20, 4),
            CvExecution(prefill_s=0.03, decode_s=0.01),
            SchedulerConfig(strategy=strategy),
            batching=batching,
            seed=seed,
            num_requests=300,
        )
        return json.dumps(found.as_dict()).encode() + found.latency_s.tobytes()

    assert bytes_of(3) == bytes_of(3)
    assert bytes_of(3) != bytes_of(4)


def test_draws_of_a_strategy_change_with_the_seed_of_the_run():
    rng = np.random.default_rng(0)
    workload = Listed([(0.0, 1, 1, load) for load in rng.random((60, 4))])
    config = SchedulerConfig(strategy="random")
    order = []
    for seed in (1, 2):
        machine = Serves(lambda number: 1.0)
        simulate(workload, machine, config, seed=seed)
        order.append(machine.batches)
    assert order[0] != order[1]


@pytest.mark.parametrize(
    "batching", [Static(), Continuous(max_running=8, token_budget=64)], ids=["static", "continuous"]
)
def test_overload_of_an_endless_workload_ends_with_a_report(batching):
    found = simulate(
        Steady(100.0, 8, 4),
        CvExecution(prefill_s=0.2, decode_s=0.1),
        SchedulerConfig(strategy="fcfs"),
        batching=batching,
        max_waiting=500,
    )
    assert (found.ended, found.overloaded) == ("max_waiting", True)
    assert 0 < found.finished < found.requests
    assert found.queue_depth_max == 501
    assert found.utilisation == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("load", "overloaded"), [(0.5, False), (0.9, False), (1.2, True), (2.0, True)])
def test_overload_is_recognised_from_a_run_that_drains(load, overloaded):
    for seed in range(3):
        found = simulate(Steady(load), Serves(exponential(seed)), ONE_BY_ONE, seed=seed, num_requests=1500)
        assert (found.ended, found.finished) == ("all finished", 1500)
        assert found.overloaded is overloaded
        if overloaded:  # then the machine never idles, and serves what it can: one a second
            assert found.throughput_requests_s == pytest.approx(1.0, rel=0.1)
        else:
            assert found.throughput_requests_s == pytest.approx(load, rel=0.1)


def test_a_run_may_be_cut_by_time():
    found = simulate(Steady(10.0), Serves(lambda number: 0.01), ONE_BY_ONE, max_seconds=20.0)
    first = next(Steady(10.0).requests(0))
    assert (found.ended, found.seconds) == ("max_seconds", 20.0 - first.arrived_s)
    assert found.requests == pytest.approx(200, abs=60)
    assert found.requests - found.finished <= 3
    assert not found.overloaded


def test_the_warm_up_is_cut_off():
    """By hand: 4 requests, one at a time, 1 s each, all there at 0, 0, 5 and 6; half of them are warm-up."""
    workload = Listed([(0.0, 1, 1, EVEN), (0.0, 1, 1, EVEN), (5.0, 1, 1, EVEN), (5.5, 1, 1, EVEN)])
    machine = Serves(lambda number: 1.0)
    found = simulate(workload, machine, ONE_BY_ONE, num_requests=4, warmup=0.5)
    assert found.latency_s.tolist() == [1.0, 1.5]
    assert (found.requests, found.finished, found.seconds) == (4, 4, 2.0)
    assert (found.throughput_requests_s, found.utilisation) == (1.0, 1.0)
    assert found.queue_depth_mean == 0.25, "one waits from 5.5 to 6, of 2 s"
    whole = simulate(workload, machine, ONE_BY_ONE, num_requests=4)
    assert whole.latency_s.tolist() == [1.0, 2.0, 1.0, 1.5]
    assert (whole.seconds, whole.utilisation, whole.throughput_requests_s) == (7.0, 4 / 7, 4 / 7)


def test_progress_is_told_and_runs_do_not_depend_on_it():
    told = []
    arguments = (Steady(50.0), Serves(lambda number: 0.001), SchedulerConfig(strategy="fcfs"))
    found = simulate(*arguments, num_requests=3000, progress=told.append)
    assert told == [1024, 2048]
    assert simulate(*arguments, num_requests=3000).as_dict() == found.as_dict()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"num_requests": 0}, "num_requests"),
        ({"warmup": 0.1}, "warmup"),
        ({"warmup": 1.0, "num_requests": 10}, "warmup"),
        ({"max_seconds": math.inf}, "max_seconds"),
        ({"max_seconds": 0.0}, "max_seconds"),
        ({"max_waiting": 0}, "max_waiting"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, field):
    with pytest.raises(ConfigError, match=field):
        simulate(Steady(1.0), Serves(lambda number: 1.0), ONE_BY_ONE, **settings)


def test_a_run_too_short_for_any_request_says_so():
    with pytest.raises(ConfigError, match="0 finished"):
        simulate(Steady(10.0), Serves(lambda number: 100.0), ONE_BY_ONE, max_seconds=5.0)


def test_arrivals_that_run_back_are_refused():
    workload = Listed([(1.0, 1, 1, EVEN), (0.5, 1, 1, EVEN)])
    with pytest.raises(ConfigError, match=r"arrived_s of request 1 = 0\.5"):
        simulate(workload, Serves(lambda number: 1.0), ONE_BY_ONE)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_requests(tmp_path):
    """A process of its own: five numbers of 8 bytes stay of a request, three times that while they are summed up."""
    script = tmp_path / "many.py"
    script.write_text(
        "from evenmoe.scheduling import SchedulerConfig\n"
        "from evenmoe.simulation import CvExecution, simulate\n"
        "from evenmoe.simulation.benchmark import peak_mb\n"
        "from tests.simulation.small import Steady\n"
        "for count in (10_000, 60_000):\n"
        "    found = simulate(Steady(2000.0), CvExecution(prefill_s=1e-3), SchedulerConfig(strategy='fcfs'),\n"
        "                     num_requests=count)\n"
        "    assert found.finished == count and not found.overloaded\n"
        "    print(peak_mb())\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    few_mb, many_mb = map(float, run.stdout.split())
    assert many_mb < 200
    assert (many_mb - few_mb) * 1e6 / 50_000 < 200, "bytes for each more request"
