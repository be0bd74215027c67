"""What a run came to, by hand."""

import numpy as np
import pytest

from evenmoe.simulation import Request, StepCost
from evenmoe.simulation.metrics import Meter

LOAD = np.ones(2)


def request_of(number, arrived_s, output_tokens=1):
    return Request(number, arrived_s, 1, output_tokens, 0, LOAD, LOAD)


def cost_of(seconds, imbalance=1.0, busy=1.0, factor=1.0, pairs=1.0, dropped=0.0):
    return StepCost(
        seconds=seconds,
        busy_share=busy,
        imbalance=imbalance,
        straggler_factor=factor,
        pairs=pairs,
        dropped_pairs=dropped,
    )


def test_a_run_by_hand():
    """Two requests at 0 and 1; a batch of the first from 2 to 4, one of the other from 4 to 10."""
    meter = Meter()
    one, other = request_of(0, 0.0, 5), request_of(1, 1.0)
    meter.arrived(one, 0.0)
    meter.arrived(other, 1.0)
    meter.taken(1, 2.0)
    meter.ran(cost_of(2.0, imbalance=2.0, busy=0.5, factor=3.0, pairs=10, dropped=4), 4.0)
    meter.finished(one, 0, 2.0, 3.0, 4.0)
    meter.taken(1, 4.0)
    meter.ran(cost_of(6.0, imbalance=1.5, busy=0.25, factor=1.0, pairs=30, dropped=0), 10.0)
    meter.finished(other, 2, 4.0, 10.0, 10.0)
    found = meter.result(10.0, "all finished", settled=5)
    assert found.latency_s.tolist() == [4.0, 9.0]
    assert (found.latency_mean_s, found.latency_p50_s, found.latency_p90_s) == (6.5, 6.5, 8.5)
    assert found.latency_p99_s == pytest.approx(8.95)
    assert (found.ttft_mean_s, found.wait_mean_s) == (6.0, 2.5)
    assert (found.tpot_mean_s, found.tpot_p99_s) == (0.25, 0.25), "of the one request that has a second token"
    assert (found.throughput_requests_s, found.throughput_tokens_s) == (0.2, 0.6)
    assert found.imbalance == pytest.approx(8 / (1 + 4)), "8 s, of which an even load would take 5"
    assert found.straggler_factor == pytest.approx((10 * 3 + 30 * 1) / 40)
    assert (found.utilisation, found.device_utilisation) == (0.8, 0.25)
    assert (found.queue_depth_mean, found.queue_depth_max) == (0.5, 2), "1 for a second, 2 for one, 1 for two"
    assert (found.passed_over_mean, found.passed_over_max) == (1.0, 2)
    assert found.drop_rate == pytest.approx(0.1)
    assert (found.requests, found.finished, found.overloaded, found.ended) == (2, 2, False, "all finished")


def test_a_batch_that_began_in_the_warm_up_counts_from_its_end():
    meter = Meter(num_warmup=1)
    meter.arrived(request_of(0, 0.0), 0.0)
    meter.taken(1, 0.0)
    meter.arrived(request_of(1, 3.0), 3.0)
    meter.ran(cost_of(4.0), 4.0)
    meter.finished(request_of(0, 0.0), 0, 0.0, 4.0, 4.0)
    meter.taken(1, 4.0)
    meter.ran(cost_of(1.0), 5.0)
    meter.finished(request_of(1, 3.0), 0, 4.0, 5.0, 5.0)
    found = meter.result(5.0, "all finished", settled=5)
    assert found.latency_s.tolist() == [2.0]
    assert (found.seconds, found.utilisation, found.queue_depth_mean) == (2.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("unfinished", "settled", "overloaded"),
    [
        ((6, 12), 10, True),
        ((6, 12), 12, False),  # two windows mean nothing
        ((12, 12), 10, False),  # no more than when half of them had come
        ((0, 5), 4, False),  # 5% of all
        ((0, 6), 4, True),
    ],
)
def test_overload_by_hand(unfinished, settled, overloaded):
    """100 requests; how many are unfinished at the 32nd, the last power of two up to half, and at the last."""
    at_half, at_end = unfinished
    meter = Meter()
    for number in range(100):
        left = at_half if number < 32 else at_end
        while meter.num_arrived + 1 - meter.num_finished > left and meter.num_arrived > meter.num_finished:
            meter.finished(request_of(meter.num_finished, 0.0), 0, 0.0, 1.0, 1.0)
        meter.arrived(request_of(number, 0.0), 0.0)
    assert meter.is_overloaded(settled) is overloaded


def test_results_are_plain_data():
    meter = Meter()
    meter.arrived(request_of(0, 0.0), 0.0)
    meter.taken(1, 0.0)
    meter.ran(cost_of(1.0), 1.0)
    meter.finished(request_of(0, 0.0), 0, 0.0, 1.0, 1.0)
    body = meter.result(1.0, "all finished", settled=1).as_dict()
    assert "latency_s" not in body
    assert {type(value) for value in body.values()} <= {int, float, bool, str}
    assert body["tpot_mean_s"] == 0.0
