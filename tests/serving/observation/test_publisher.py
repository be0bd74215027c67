"""What leaves the process that routes: sums over at least N requests, and nothing in between."""

import logging
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.serving.config import MetricsConfig, ServingConfig
from evenmoe.serving.observation.collector import metrics_page
from evenmoe.serving.observation.loads_file import pack_loads_snapshot
from evenmoe.serving.observation.publisher import LoadsPublisher
from tests.serving.observation.counting import Counting
from tests.serving.observation.test_collector import MemorySource


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def publishing(counting, written, clock, **settings):
    return LoadsPublisher(MetricsConfig(**settings), counting.placement, written.append, clock)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),  # new requests
        st.floats(0.0, 2.0),  # seconds since the last step
        st.lists(st.integers(0, 9), min_size=8, max_size=8),
    ),
    max_size=40,
)


@given(STEPS, st.integers(2, 9), st.sampled_from([0.01, 0.5, 3.0]))
def test_snapshots_differ_by_n_requests_or_by_nothing(steps, least, interval_s):
    counting, written, clock = Counting(), [], Clock()
    publisher = publishing(counting, written, clock, least_requests=least, interval_s=interval_s)
    publisher.start(counting.loads())
    times, tokens, requests = [], 0, 0
    for new, seconds, load in steps:
        clock.now += seconds
        counting.step(np.reshape(load, (2, 4)))
        tokens, requests = tokens + sum(load), requests + new
        told = publisher.step_done(counting.loads, num_tokens=sum(load), num_new_requests=new)
        if told:
            times.append(clock.now)
            # what goes out is everything up to this step, and says so
            assert (written[-1].num_tokens, written[-1].num_requests) == (tokens, requests)
            np.testing.assert_array_equal(written[-1].loads.total.before_LE, counting.loads().total.before_LE)
    assert len(written) == 1 + len(times)
    for earlier, later in pairwise(written):
        assert later.num_requests - earlier.num_requests >= least
    assert (np.diff(times) >= interval_s).all()
    # what is held back is fewer than N, or waits for the interval alone
    held = requests - written[-1].num_requests
    assert held < least or (times and clock.now - times[-1] < interval_s)


@settings(max_examples=40)
@given(STEPS, st.integers(2, 9))
def test_what_a_reader_sees_moves_with_the_snapshots_alone(steps, least):
    # every line of /metrics that comes from loads, gauges and factors too
    counting, source, clock = Counting(), MemorySource(), Clock()
    publisher = LoadsPublisher(MetricsConfig(least_requests=least), counting.placement, source.take, clock)
    publisher.start(counting.loads())
    page = metrics_page(source)
    for new, seconds, load in steps:
        clock.now += seconds
        counting.step(np.reshape(load, (2, 4)))
        told = publisher.step_done(counting.loads, num_tokens=sum(load), num_new_requests=new)
        if not told:
            assert metrics_page(source) == page
        page = metrics_page(source)


def test_counts_are_asked_for_only_when_due():
    counting, written, clock = Counting(), [], Clock()
    publisher = publishing(counting, written, clock, least_requests=2)
    publisher.start(counting.loads())

    def never():
        raise AssertionError

    assert not publisher.step_done(never, num_tokens=5, num_new_requests=1)
    counting.step(np.ones((2, 4)))
    assert publisher.step_done(counting.loads, num_tokens=5, num_new_requests=1)
    # the next two come too early
    assert not publisher.step_done(never, num_tokens=5, num_new_requests=2)
    clock.now += 0.99
    assert not publisher.step_done(never, num_tokens=5, num_new_requests=0)
    clock.now += 0.01
    assert publisher.step_done(counting.loads, num_tokens=1, num_new_requests=0)
    assert [snapshot.num_tokens for snapshot in written] == [0, 10, 21]


def test_the_start_says_what_the_model_is():
    counting, written = Counting(num_layers=3, num_experts=8), []
    publishing(counting, written, Clock()).start(counting.loads())
    assert written[0].loads.layers == counting.placement.layers
    assert not written[0].before_LD.any()


def test_a_start_with_counts_is_a_bug():
    # what a profiling run routed would be told as if it were requests'
    counting = Counting()
    counting.step(np.ones((2, 4)))
    with pytest.raises(AssertionError):
        publishing(counting, [], Clock()).start(counting.loads())


def test_a_scheduler_learns_also_where_metrics_show_nothing():
    counting, written = Counting(), []
    publisher = publishing(counting, written, Clock(), enabled=False)
    publisher.start(counting.loads())
    assert not publisher.step_done(counting.loads, num_tokens=5, num_new_requests=7)
    assert publisher.step_done(counting.loads, num_tokens=5, num_new_requests=1)
    source = MemorySource(ServingConfig(metrics=MetricsConfig(enabled=False)), loads=written[-1])
    assert metrics_page(source) == b""


def test_single_requests_only_with_the_flag():
    counting, written, clock = Counting(), [], Clock()
    publisher = publishing(counting, written, clock, least_requests=1, per_request_loads=True)
    publisher.start(counting.loads())
    counting.step(np.ones((2, 4)))
    assert publisher.step_done(counting.loads, num_tokens=4, num_new_requests=1)
    clock.now += 5
    assert not publisher.step_done(counting.loads, num_tokens=4, num_new_requests=0)


def test_a_full_disk_costs_no_step_and_no_count(caplog):
    counting, clock, written = Counting(), Clock(), []
    full = [True]

    def write(snapshot):
        if full[0]:
            raise OSError(28, "No space left on device")
        written.append(pack_loads_snapshot(snapshot))

    publisher = LoadsPublisher(MetricsConfig(least_requests=2), counting.placement, write, clock)
    with caplog.at_level(logging.WARNING):
        publisher.start(counting.loads())
        counting.step(np.ones((2, 4)))
        assert not publisher.step_done(counting.loads, num_tokens=4, num_new_requests=2)
    assert "No space left" in caplog.text
    full[0] = False
    assert not publisher.step_done(
        counting.loads, num_tokens=4, num_new_requests=0
    )  # not again at every step
    clock.now += 1
    assert publisher.step_done(counting.loads, num_tokens=4, num_new_requests=0)
    assert len(written) == 1
