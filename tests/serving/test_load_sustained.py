"""Whether a server keeps up, and whether its memory grows: by hand, by simulation, and against a made-up server."""

import asyncio
import threading
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.serving.load import ClientOptions, Record, summarise, sustained
from evenmoe.serving.load.sustained import Traffic, capacity, probes, soak
from evenmoe.serving.load.trend import backlog_trend, trend
from evenmoe.simulation.workloads.prompts import Prompt
from tests.serving.fake_server import DONE, OK, FakeServer, event


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 10))
def test_a_straight_line_has_its_slope_and_no_doubt(slope, start, count):
    x = range(10 * count)
    found = trend(x, [start + slope * value for value in x])
    assert found.slope == pytest.approx(slope, abs=1e-9)
    assert found.high - found.low < 1e-6
    assert found.level == pytest.approx(start + slope * (10 * count - 1) / 2)


def test_the_slope_by_hand_and_its_interval_by_the_textbook():
    # means of blocks (0, 0), (1, 2), (2, 1): slope 0.5, residuals -0.5, 1, -0.5, one degree of freedom
    found = trend([0, 1, 2], [0, 2, 1], blocks=3)
    error = np.sqrt(1.5 / 1 / 2)
    assert found.slope == pytest.approx(0.5)
    assert found.high - found.slope == pytest.approx(
        12.7062 * error, rel=1e-4
    )  # Student, one degree of freedom


def test_the_interval_holds_the_slope_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    x = np.arange(200)
    noise = rng.normal(0, 1, (400, 200))
    inside = sum(one.low <= 0.01 <= one.high for one in (trend(x, 0.01 * x + row) for row in noise))
    assert 0.91 <= inside / 400 <= 0.985


def test_memory_that_leaks_is_not_flat_and_memory_that_scatters_is():
    rng = np.random.default_rng(1)
    requests = np.arange(1000, 5000, 10)
    level = 3e9 + rng.normal(0, 2e6, len(requests))
    assert trend(requests, level).is_flat(5000, 0.01 * 3e9)
    leak = trend(requests, level + 10_000 * requests)  # 10 kB a request
    assert not leak.is_flat(5000, 0.01 * 3e9)
    assert leak.low > 0


@pytest.mark.parametrize("wrong", [([1, 2], [1, 2]), ([1] * 20, list(range(20))), (range(20), range(19))])
def test_no_trend_without_points(wrong):
    with pytest.raises(ConfigError):
        trend(*wrong)


def served_in_order(rate, service_s, count, rng):
    """Records of a queue with one server."""
    due = np.cumsum(rng.exponential(1.0, count))
    due *= (count - 1) / rate / due[-1]
    ended = 0.0
    records = []
    for i, at_s in enumerate(due):
        ended = max(ended, at_s) + service_s
        records.append(
            Record(
                index=i, id=str(i), topic="t", planned_s=at_s, sent_s=at_s, ended_s=ended, outcome="finished"
            )
        )
    return records


@pytest.mark.parametrize(("share", "left_behind"), [(0.5, 0.0), (0.8, 0.0), (1.25, 0.2), (2.0, 0.5)])
def test_the_backlog_grows_by_what_the_server_cannot_do(share, left_behind):
    records = served_in_order(share, 1.0, 4000, np.random.default_rng(2))
    assert backlog_trend(records).slope == pytest.approx(left_behind, abs=0.02)
    assert backlog_trend(records[::-1]) == backlog_trend(records)


class Slots(FakeServer):
    """Answers one request at a time, each after `service_s`."""

    def __init__(self, service_s):
        super().__init__(self._answer)
        self.service_s = service_s

    async def _answer(self, body, write):
        async with self.slot:
            await asyncio.sleep(self.service_s)
        end = {"choices": [{"text": "", "finish_reason": "length"}], "id": f"cmpl-{body['id']}"}
        await write(OK + event("a", id=end["id"]) + event(**end) + DONE)


@pytest.fixture
def options():
    server, loop, ready = Slots(0.01), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def serve():
        server.slot = asyncio.Semaphore(1)
        async with server.running() as server.url:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield ClientOptions(url=server.url, model="m", timeout_s=20)
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


TRAFFIC = Traffic(prompts=[Prompt(text=str(i), topic="t") for i in range(9)], max_tokens=1)


@pytest.fixture
def simulated(monkeypatch):
    """A server that takes 10 ms a request, and breaks down above 120 requests a second."""

    def send(_options, traffic, rate, num_requests, told=None):
        rng = np.random.default_rng(traffic.seed)
        records = served_in_order(rate, 0.01, num_requests, rng)
        if 120 < rate < np.inf:
            records[0] = replace(records[0], outcome="failed", status=500)
        return records, summarise(records, records[-1].ended_s)

    monkeypatch.setattr(sustained, "_send", send)
    return ClientOptions(url="http://h", model="m")


@pytest.mark.parametrize("seed", range(5))
def test_the_rate_that_is_found_is_one_the_server_can_do(simulated, seed):
    traffic = replace(TRAFFIC, seed=seed)
    assert capacity(simulated, traffic, 300) == pytest.approx(100)
    tried = list(probes(simulated, traffic, 160, 300))  # from far too much, down
    assert [probe.keeps_up for probe in tried] == [False] * (len(tried) - 1) + [True]
    assert 85 < tried[-1].rate_per_s <= 110  # about 5% may be left behind, and arrivals are random
    assert all(later.rate_per_s < sooner.rate_per_s for sooner, later in pairwise(tried))


def test_no_rate_is_said_where_none_is_kept_up_with(simulated):
    with pytest.raises(ConfigError, match="keeps up with"):
        list(probes(simulated, TRAFFIC, 1000, 300))


def test_a_long_run_watches_memory_and_loses_nothing(options):
    memory = iter(range(10**9, 2 * 10**9, 1000))
    found = soak(options, TRAFFIC, 60.0, 80, lambda: next(memory), every_s=0.01)
    assert (found.result.lost, found.result.doubled, found.result.strayed) == (0, 0, 0)
    assert found.result.outcomes == {"finished": 80}
    assert found.result.offered_per_s == pytest.approx(60.0)
    assert found.memory.low > 0  # a made-up leak
    assert found.floor.low > 0
    assert [sample[1] for sample in found.samples] == sorted(sample[1] for sample in found.samples)
    assert soak(options, TRAFFIC, 60.0, 20).memory is None


@pytest.mark.parametrize("leak", [0, 40_000])
def test_the_floor_tells_a_leak_from_free_memory_that_is_given_back(leak, options):
    """Teeth that grow in the course of the run, with and without something below them that stays."""
    calls = count()

    def memory():
        number = next(calls)
        return 10**9 + leak * number + (number % 7) * (100_000 + 3_000 * number)

    found = soak(options, TRAFFIC, 60.0, 80, memory, every_s=0.003)
    assert found.memory.low > 0
    assert (found.floor.low > 1.0) == (leak > 0)
    assert found.floor.level < found.memory.level
