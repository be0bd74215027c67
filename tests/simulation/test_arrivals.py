"""Arrivals come at the rate that was asked for, in bursts as described, and the same for the same seed."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.workloads.arrivals import BLOCK, Arrival, Bursty, Poisson, Replayed, stream
from evenmoe.simulation.workloads.traces import Trace
from tests.oracles.workloads import bursty_times

TOPICS = ("code", "book", "news")


def drawn(arrivals, number, seed=0, topics=TOPICS):
    """(times [number], topics [number])"""
    blocks = itertools.islice(arrivals.blocks(np.random.default_rng(seed), topics), -(-number // BLOCK))
    times, topic = zip(*((block.at_s, block.topic_N) for block in blocks), strict=True)
    return np.concatenate(times)[:number], np.concatenate(topic)[:number]


def trace(times=(0.0, 1.0, 1.0, 4.0), **columns):
    ones = np.ones(len(times), dtype=np.int64)
    return Trace(
        source="a.csv", times_s=np.array(times), prompt_tokens=7 * ones, output_tokens=3 * ones, **columns
    )


# In the long run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arrivals",
    [
        Poisson(rate_per_s=0.5),
        Poisson(rate_per_s=300.0),
        Bursty(rate_per_s=150.0, burst_requests=8),
        Bursty(rate_per_s=150.0, burst_requests=8, intensity=1.0),
        Bursty(rate_per_s=3.0, burst_requests=20.5, intensity=50.0),
        Bursty(rate_per_s=200.0, burst_s=0.05, intensity=4.0),
        Bursty(rate_per_s=200.0, burst_s=0.0, intensity=4.0),
        Bursty(rate_per_s=200.0),
    ],
    ids=str,
)
def test_the_mean_rate_is_what_was_asked_for(arrivals):
    times, _ = drawn(arrivals, 2_000_000)
    assert len(times) / times[-1] == pytest.approx(arrivals.rate_per_s, rel=0.015)


def test_poisson_gaps_are_exponential_and_independent():
    times, _ = drawn(Poisson(rate_per_s=200.0), 200_000)
    gaps = np.sort(np.diff(times, prepend=0.0))
    empirical = np.arange(1, len(gaps) + 1) / len(gaps)
    largest = np.abs(empirical - (1 - np.exp(-200.0 * gaps))).max()
    assert largest < 1.63 / np.sqrt(len(gaps)), "Kolmogorov-Smirnov at 1%"
    gaps = np.diff(times)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / np.sqrt(len(gaps))


@pytest.mark.parametrize(("requests", "intensity"), [(8.0, 2.0), (32.0, 5.0), (3.0, 1.0)])
def test_bursts_scatter_like_those_made_one_by_one(requests, intensity):
    arrivals = Bursty(rate_per_s=100.0, burst_requests=requests, intensity=intensity)
    fast, _ = drawn(arrivals, 100 * 4000)
    slow = np.array(bursty_times(100.0, requests, intensity, 4000.0, seed=3))
    for window_s in (0.02, 0.5):
        dispersion = []
        for times in (fast, slow):
            counts = np.bincount((times / window_s).astype(int))[:-1]
            dispersion.append(counts.var() / counts.mean())
        assert dispersion[0] == pytest.approx(dispersion[1], rel=0.15)


def test_a_burst_has_its_requests_and_seconds_and_one_topic():
    many = tuple(f"topic {number}" for number in range(5000))
    arrivals = Bursty(rate_per_s=100.0, burst_s=0.4, intensity=2.5)
    assert arrivals.mean_burst_requests == pytest.approx(101)
    times, topic_N = drawn(arrivals, 1_000_000, topics=many)
    starts = np.flatnonzero(np.diff(topic_N, prepend=-1))
    assert np.diff(starts).mean() == pytest.approx(101, rel=0.05)
    ends = np.append(starts[1:], len(topic_N)) - 1
    assert (times[ends] - times[starts]).mean() == pytest.approx(0.4, rel=0.05)
    inside = np.delete(np.diff(times), starts[1:] - 1)
    assert inside.mean() == pytest.approx(1 / 250.0, rel=0.02)


def test_at_intensity_one_only_the_topics_come_in_bursts():
    poisson, topic_N = drawn(Poisson(rate_per_s=50.0), 5000)
    single, single_topic_N = drawn(Bursty(rate_per_s=50.0, burst_requests=1, intensity=1), 5000)
    bursts, burst_topic_N = drawn(Bursty(rate_per_s=50.0, burst_requests=32, intensity=1), 5000)
    np.testing.assert_array_equal(single, poisson)
    np.testing.assert_array_equal(single_topic_N, topic_N)
    np.testing.assert_allclose(bursts, poisson)
    assert (np.diff(topic_N) != 0).mean() == pytest.approx(2 / 3, abs=0.03)
    assert (np.diff(burst_topic_N) != 0).mean() == pytest.approx(2 / 3 / 32, rel=0.3)


@pytest.mark.parametrize("kind", [Poisson, Bursty])
def test_topics_have_their_share_of_the_mix(kind):
    _, topic_N = drawn(kind(rate_per_s=1.0, topic_mix=(1.0, 0.0, 3.0)), 1_000_000)
    assert (np.bincount(topic_N, minlength=3) / len(topic_N)).tolist() == pytest.approx(
        [0.25, 0, 0.75], abs=0.015
    )


# Block by block -------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    rate=st.floats(1e-3, 1e5),
    requests=st.floats(1, 1e4),
    intensity=st.floats(1, 1e3),
    seed=st.integers(0, 2**32),
)
def test_time_never_runs_back_and_topics_exist(rate, requests, intensity, seed):
    arrivals = Bursty(rate_per_s=rate, burst_requests=requests, intensity=intensity)
    times, topic_N = drawn(arrivals, 3 * BLOCK, seed)
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert set(topic_N.tolist()) <= {0, 1, 2}


def test_a_burst_goes_on_over_the_edge_of_a_block():
    _, topic_N = drawn(
        Bursty(rate_per_s=1.0, burst_requests=1000), 400 * BLOCK, topics=tuple(map(str, range(9)))
    )
    changed = np.diff(topic_N)[BLOCK - 1 :: BLOCK] != 0
    assert changed.mean() < 0.02


def test_the_same_seed_gives_the_same_and_topics_do_not_move_times():
    arrivals = Bursty(rate_per_s=10.0)
    first, again, other = (drawn(arrivals, 10_000, seed) for seed in (5, 5, 6))
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    assert first[0].tobytes() != other[0].tobytes()
    mixed = drawn(Bursty(rate_per_s=10.0, topic_mix=(5.0, 1.0, 1.0)), 10_000, 5)
    assert mixed[0].tobytes() == first[0].tobytes()


def test_a_million_arrivals_take_no_memory():
    tracemalloc.start()
    for _ in itertools.islice(Bursty(rate_per_s=1.0).blocks(np.random.default_rng(0), TOPICS), 250):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6


def test_streamed_one_by_one_they_are_those_of_the_blocks():
    times, topic_N = drawn(Bursty(rate_per_s=9.0), BLOCK + 10, seed=4)
    single = list(
        itertools.islice(stream(Bursty(rate_per_s=9.0), np.random.default_rng(4), TOPICS), BLOCK + 10)
    )
    assert single == [
        Arrival(t, g, None, None) for t, g in zip(times.tolist(), topic_N.tolist(), strict=True)
    ]


# Replayed -------------------------------------------------------------------------------------------------------------


def test_a_trace_comes_back_as_it_is():
    named = trace(topics=("news", "code"), topic_N=np.array([0, 1, 1, 0]))
    assert list(stream(Replayed(trace=named), np.random.default_rng(0), TOPICS)) == [
        Arrival(0.0, 2, 7, 3),
        Arrival(1.0, 0, 7, 3),
        Arrival(1.0, 0, 7, 3),
        Arrival(4.0, 2, 7, 3),
    ]


def test_a_long_trace_comes_in_blocks_without_a_gap():
    long = trace(np.arange(2.5 * BLOCK))
    arrived = list(stream(Replayed(trace=long), np.random.default_rng(0)))
    assert [arrival.at_s for arrival in arrived] == long.times_s.tolist()


def test_topics_of_a_trace_without_them_are_drawn_each_in_runs_or_by_session():
    number = 60_000
    session_N = np.random.default_rng(1).integers(200, size=number)
    long = trace(np.arange(float(number)), session_N=session_N)
    rng = np.random.default_rng
    _, each_N = drawn(Replayed(trace=long), number)
    _, runs_N = drawn(Replayed(trace=long, topic_run=50.0), number)
    _, session_topic_N = drawn(Replayed(trace=long, by_session=True), number)
    assert (np.diff(each_N) != 0).mean() == pytest.approx(2 / 3, abs=0.01)
    assert (np.diff(runs_N) != 0).mean() == pytest.approx(2 / 3 / 50, rel=0.15)
    assert len(set(zip(session_N.tolist(), session_topic_N.tolist(), strict=True))) == 200
    assert set(session_topic_N.tolist()) == {0, 1, 2}
    biased = Replayed(trace=long, topic_mix=(0.0, 1.0, 0.0))
    assert {arrival.topic for arrival in stream(biased, rng(0), TOPICS)} == {1}


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Poisson(rate_per_s=0.0), "rate_per_s"),
        (lambda: Poisson(rate_per_s=float("nan")), "rate_per_s"),
        (lambda: Poisson(rate_per_s=float("inf")), "rate_per_s"),
        (lambda: Poisson(rate_per_s="fast"), "rate_per_s"),
        (lambda: Poisson(rate_per_s=1.0, topic_mix=(0.5, -0.1)), "topic_mix[1]"),
        (lambda: Poisson(rate_per_s=1.0, topic_mix=(0.0, 0.0)), "topic_mix"),
        (lambda: Poisson(rate_per_s=1.0, topic_mix=()), "topic_mix"),
        (lambda: Bursty(rate_per_s=-1.0), "rate_per_s"),
        (lambda: Bursty(rate_per_s=1.0, intensity=0.9), "intensity"),
        (lambda: Bursty(rate_per_s=1.0, burst_requests=0.5), "burst_requests"),
        (lambda: Bursty(rate_per_s=1.0, burst_s=-1.0), "burst_s"),
        (lambda: Bursty(rate_per_s=1.0, burst_s=1.0, burst_requests=2.0), "burst_s"),
        (lambda: Replayed(trace=trace(), topic_run=0.0), "topic_run"),
        (lambda: Replayed(trace=trace(), by_session=True), "by_session"),
        (lambda: Replayed(trace=trace(session_N=np.arange(4)), by_session=True, topic_run=2.0), "topic_run"),
        (lambda: Replayed(trace=trace(topics=("a",), topic_N=np.zeros(4, int)), topic_run=2.0), "topic_run"),
        (
            lambda: Replayed(trace=trace(topics=("a",), topic_N=np.zeros(4, int)), topic_mix=(1.0,)),
            "topic_mix",
        ),
        (lambda: Poisson(rate_per_s=1.0, topic_mix=(1.0, 2.0)).check(TOPICS), "topic_mix"),
        (lambda: Bursty(rate_per_s=1.0, topic_mix=(1.0, 2.0)).check(TOPICS), "topic_mix"),
        (
            lambda: Replayed(trace=trace(topics=("maths",), topic_N=np.zeros(4, int))).check(TOPICS),
            "topic of a.csv",
        ),
    ],
)
def test_a_setting_that_is_wrong_or_cannot_act_is_refused(make, field):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.field == field
