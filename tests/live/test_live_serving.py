"""A live run on a made-up clock: the simulator is its oracle, all are served once, and Ctrl-C keeps what is done."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.live.execution import MeasuredExecution
from evenmoe.live.results import measured_metrics, prediction_cosines
from evenmoe.live.serving import LiveRequest, serve
from evenmoe.live.study import LiveSettings, run_live
from evenmoe.live.timing import BatchTime
from evenmoe.live.traffic import make_requests
from evenmoe.scheduling import SchedulerConfig
from evenmoe.simulation.workloads.arrivals import Bursty
from tests.live.live_cases import PLACEMENT, FormulaEngine, Oracle, StepClock, prompts

EXECUTION = MeasuredExecution(batch_time=BatchTime(fixed_s=0.01, per_token_s=0.001), placement=PLACEMENT)
SMALL = SchedulerConfig(max_batch_size=4, window_size=8, min_batch_trigger=6, scheduling_interval_ms=20.0)


def traffic(rate_per_s=60.0, number=80, seed=0):
    rng = np.random.default_rng(seed)
    arrivals = Bursty(rate_per_s=rate_per_s, burst_requests=6)
    return make_requests(arrivals, number, prompts(rng), Oracle(), PLACEMENT, seed)


@given(
    seed=st.integers(0, 1000),
    rate=st.sampled_from([5.0, 60.0, 400.0]),
    strategy=st.sampled_from(["fcfs", "peak_excess", "auto", "random", "power_of_d"]),
)
@settings(max_examples=15)
def test_the_simulator_foretells_a_machine_that_is_as_it_assumes(seed, rate, strategy):
    from evenmoe.live.forecast import forecast

    requests = traffic(rate, 60, seed)
    clock = StepClock()
    config = dataclasses.replace(SMALL, strategy=strategy)
    run = serve(requests, FormulaEngine(clock), EXECUTION, config, lambda: clock)
    measured = measured_metrics(requests, run, EXECUTION)
    foretold = forecast([one.request for one in requests], EXECUTION, config)
    assert sorted(number for batch in run.batches for number in batch.numbers) == list(range(60))
    for name, value in foretold.as_dict().items():
        if name not in ("overloaded", "ended"):  # a live run is not told overloaded
            assert getattr(measured, name) == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_batches_hold_what_was_asked_in_the_order_of_picking():
    requests = traffic()
    clock = StepClock()
    engine = FormulaEngine(clock)
    run = serve(
        requests, engine, EXECUTION, dataclasses.replace(SMALL, strategy="peak_excess"), lambda: clock
    )
    for batch, ran in zip(run.batches, engine.batches, strict=True):
        assert ran == [requests[number].ids_T.tolist() for number in batch.numbers]
        assert batch.waiting >= len(batch.numbers)
        assert batch.started_s >= max(requests[number].request.arrived_s for number in batch.numbers)
    assert all(a.finished_s <= b.started_s for a, b in zip(run.batches, run.batches[1:], strict=False))


def test_the_true_loads_are_those_of_the_engine():
    requests = traffic()
    clock = StepClock()
    run = serve(requests, FormulaEngine(clock), EXECUTION, SMALL, lambda: clock)
    assert prediction_cosines(requests, run) == pytest.approx((1.0, 1.0))
    by_hand = []
    for batch in run.batches:
        load_E = batch.load_BLE.sum(0)[0]
        by_hand.append((max(load_E[:2].sum(), load_E[2:].sum()), load_E.sum() / 2))
    peaks, means = np.array(by_hand).sum(0)
    assert measured_metrics(requests, run, EXECUTION).straggler_factor == pytest.approx(peaks / means)


def test_an_interrupt_keeps_what_was_finished():
    requests = traffic()
    clock = StepClock()
    run = serve(requests, FormulaEngine(clock, interrupt_at=3), EXECUTION, SMALL, lambda: clock)
    assert run.interrupted
    assert len(run.batches) == 3
    metrics = measured_metrics(requests, run, EXECUTION)
    assert metrics.finished == sum(len(batch.numbers) for batch in run.batches)
    assert metrics.requests < len(requests)


def test_arrivals_out_of_order_are_refused():
    requests = traffic()
    clock = StepClock()
    with pytest.raises(ConfigError, match="arrivals"):
        serve(requests[::-1], FormulaEngine(clock), EXECUTION, SMALL, lambda: clock)


def study(interrupt_at=None, **changes):
    clocks = []

    def new_clock():
        clocks.append(StepClock())
        engine.clock = clocks[-1]
        return clocks[-1]

    engine = FormulaEngine(None, interrupt_at=interrupt_at)
    asked = LiveSettings(num_requests=60, scheduler=SMALL, **changes)
    served = prompts(np.random.default_rng(1), tokens=(6, 7))
    return run_live(asked, engine, served, Oracle(), PLACEMENT, new_clock=new_clock)


def test_a_study_finds_the_machine_and_foretells_it():
    results = study()
    assert results.batch_time.fixed_s == pytest.approx(0.01)
    assert results.batch_time.per_token_s == pytest.approx(0.001)
    assert results.capacity_per_s == pytest.approx(4 / (0.01 + 0.001 * 24))
    assert results.rate_per_s == pytest.approx(0.9 * results.capacity_per_s)
    for result in results.results:
        errors = result.errors()
        assert errors["throughput_requests_s"] == pytest.approx(0, abs=1e-9)
        assert result.drift == pytest.approx(0, abs=1e-9)
        assert result.prediction_cosine == pytest.approx(1.0)
    assert not results.interrupted


def test_unlike_requests_share_a_batch_where_many_wait():
    results = study(share=2.0, burst_requests=4.0, strategies=("fcfs", "peak_excess"))
    fcfs, ours = (result.measured.straggler_factor for result in results.results)
    assert ours < 0.95 * fcfs
    for result in results.results:
        assert result.forecast.straggler_factor == pytest.approx(result.measured.straggler_factor, rel=0.1)


def test_an_interrupted_study_has_the_strategies_until_then_and_no_forecast_of_a_part():
    whole = len(study(strategies=("fcfs",)).results)
    assert whole == 1
    warmup = 21  # 7 passes of 3 sizes
    results = study(interrupt_at=warmup + 5)
    assert results.interrupted
    assert [result.strategy for result in results.results] == ["fcfs"]
    assert results.results[0].forecast is None
    assert results.results[0].errors() is None
    assert results.as_dict()["rows"][0]["forecast"] is None


def test_an_interrupt_in_the_first_batch_leaves_no_result():
    results = study(interrupt_at=21)
    assert results.interrupted
    assert results.results == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategies": ("fcfs", "fcfs")}, "strategy"),
        ({"strategies": ("first",)}, "strategy"),
        ({"share": 0.0}, "share"),
        ({"rate_per_s": float("nan")}, "rate"),
        ({"num_requests": 0}, "requests"),
    ],
)
def test_settings_that_cannot_act_are_refused(changes, field):
    with pytest.raises(ConfigError, match=field):
        LiveSettings(**changes)


def test_a_predictor_of_another_model_is_refused():
    class Other:
        def predict(self, ids_T):
            return np.ones((3, 4))

    with pytest.raises(ShapeError, match="3, 4"):
        make_requests(Bursty(rate_per_s=1.0), 1, prompts(np.random.default_rng(0)), Other(), PLACEMENT, 0)


def test_requests_are_plain_data():
    one = traffic(number=1)[0]
    assert isinstance(one, LiveRequest)
    assert one.request.load_X.reshape(2, 4).sum(-1) == pytest.approx([2.0, 2.0])
