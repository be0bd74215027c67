"""SimulatedWorkload: the same seed gives the same bytes, and what changes one part leaves the others."""

import dataclasses
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest

from evenmoe.errors import ConfigError
from evenmoe.simulation.request import Workload
from evenmoe.simulation.workloads.arrivals import BLOCK, Bursty, Poisson, Replayed
from evenmoe.simulation.workloads.lengths import Fixed, Geometric, LogNormal, RequestLengths
from evenmoe.simulation.workloads.load_noise import LoadNoise
from evenmoe.simulation.workloads.load_sources import PromptLoads, SyntheticTopics
from evenmoe.simulation.workloads.traces import Trace
from evenmoe.simulation.workloads.workload import SimulatedWorkload
from tests.simulation.test_load_sources import TablePredictor

LENGTHS = RequestLengths(prompt=LogNormal(300, 0.5), output=Geometric(20))
MIXED = SimulatedWorkload(
    arrivals=Bursty(rate_per_s=100.0), loads=SyntheticTopics(num_topics=4), lengths=LENGTHS
)
TRACE = Trace(
    source="a.csv",
    times_s=np.array([0.0, 0.5, 2.0]),
    prompt_tokens=np.array([11, 12, 13]),
    output_tokens=np.array([4, 5, 6]),
)
PROMPTS = PromptLoads.of(TablePredictor(), {"one": [[0, 1, 2, 3]], "two": [[1, 1, 2, 2, 0]]})


def first(workload, number, seed=7):
    return list(itertools.islice(workload.requests(seed), number))


def column(requests, name):
    return [getattr(request, name) for request in requests]


def vectors(requests, name="load_X"):
    return np.array(column(requests, name))


def test_requests_are_what_the_interface_says():
    workload: Workload = MIXED
    assert (workload.topics, workload.num_layers, workload.num_experts, workload.top_k) == (
        ("topic-0", "topic-1", "topic-2", "topic-3"),
        1,
        60,
        4,
    )
    requests = first(workload, 2 * BLOCK + 100)
    assert column(requests, "number") == list(range(len(requests)))
    assert (np.diff(column(requests, "arrived_s")) >= 0).all()
    assert min(column(requests, "prompt_tokens")) >= 1
    assert min(column(requests, "output_tokens")) >= 1
    assert set(column(requests, "topic")) == {0, 1, 2, 3}
    np.testing.assert_allclose(vectors(requests).sum(1), 4)
    assert all(request.predicted_X is request.load_X for request in requests)
    plain = requests[0]
    assert [type(value) for value in (plain.number, plain.arrived_s, plain.prompt_tokens, plain.topic)] == [
        int,
        float,
        int,
        int,
    ]


def test_loads_are_those_of_the_requests_own_topic():
    workload = dataclasses.replace(MIXED, loads=SyntheticTopics(num_topics=4, noise=LoadNoise(request=0.1)))
    expected_GE = workload.loads.expected_GLE[:, 0]
    for request in first(workload, 500):
        assert np.argmin(((expected_GE - request.load_X) ** 2).sum(1)) == request.topic


def as_tuples(requests):
    fields = ("number", "arrived_s", "prompt_tokens", "output_tokens", "topic")
    return [
        (*(getattr(one, name) for name in fields), one.load_X.tobytes(), one.predicted_X.tobytes())
        for one in requests
    ]


@pytest.mark.parametrize("noise", [LoadNoise(), LoadNoise(prediction="expected", prediction_error=0.2)])
def test_the_same_seed_gives_the_same_bytes(noise):
    workload = dataclasses.replace(MIXED, loads=SyntheticTopics(noise=noise))
    once = as_tuples(first(workload, 5000))
    assert once == as_tuples(first(workload, 5000))
    assert once == as_tuples(first(pickle.loads(pickle.dumps(workload)), 5000))
    assert once != as_tuples(first(workload, 5000, seed=8))


@pytest.mark.parametrize("number", [1, 17, BLOCK, BLOCK + 1])
def test_the_first_requests_do_not_depend_on_how_many_there_are(number):
    limited = list(dataclasses.replace(MIXED, num_requests=number).requests(7))
    assert len(limited) == number
    assert as_tuples(limited) == as_tuples(first(MIXED, number))


def test_what_changes_one_part_leaves_the_others():
    requests = first(MIXED, 3000)
    longer = first(
        dataclasses.replace(MIXED, lengths=RequestLengths(prompt=Fixed(9), output=Geometric(20))), 3000
    )
    rarer = first(dataclasses.replace(MIXED, arrivals=Poisson(rate_per_s=1.0)), 3000)
    blind_loads = SyntheticTopics(num_topics=4, noise=LoadNoise(prediction="expected"))
    blind = first(dataclasses.replace(MIXED, loads=blind_loads), 3000)
    for name in ("arrived_s", "topic", "output_tokens"):
        assert column(longer, name) == column(requests, name)
    for name in ("prompt_tokens", "output_tokens"):
        assert column(rarer, name) == column(requests, name)
    for name in ("arrived_s", "topic", "prompt_tokens", "output_tokens"):
        assert column(blind, name) == column(requests, name)
    erring_loads = SyntheticTopics(num_topics=4, noise=LoadNoise(prediction_error=0.3))
    erring = first(dataclasses.replace(MIXED, loads=erring_loads), 3000)
    np.testing.assert_array_equal(vectors(blind), vectors(requests))
    np.testing.assert_array_equal(vectors(erring), vectors(requests))
    assert not np.array_equal(vectors(blind, "predicted_X"), vectors(requests, "predicted_X"))


def test_twice_the_rate_is_the_same_requests_in_half_the_time():
    fast = dataclasses.replace(MIXED, arrivals=Bursty(rate_per_s=200.0))
    slow_requests, fast_requests = first(MIXED, 2000), first(fast, 2000)
    np.testing.assert_allclose(
        np.array(column(fast_requests, "arrived_s")) * 2, column(slow_requests, "arrived_s")
    )
    np.testing.assert_array_equal(vectors(fast_requests), vectors(slow_requests))


def test_whose_lengths_count():
    trace, bare = Replayed(trace=TRACE), Poisson(rate_per_s=1.0)
    for arrivals, loads, lengths, prompts, outputs in (
        (trace, SyntheticTopics(), RequestLengths(), [11, 12, 13], [4, 5, 6]),
        (trace, SyntheticTopics(), RequestLengths(output=Fixed(9)), [11, 12, 13], [9, 9, 9]),
        (trace, SyntheticTopics(), RequestLengths(prompt=Fixed(9)), [9, 9, 9], [4, 5, 6]),
        (trace, PROMPTS, RequestLengths(), [11, 12, 13], [4, 5, 6]),
        (bare, PROMPTS, RequestLengths(prompt=Fixed(2), output=Fixed(1)), [2, 2, 2], [1, 1, 1]),
    ):
        requests = first(SimulatedWorkload(arrivals=arrivals, loads=loads, lengths=lengths), 3)
        assert (column(requests, "prompt_tokens"), column(requests, "output_tokens")) == (prompts, outputs)
    own = first(SimulatedWorkload(arrivals=bare, loads=PROMPTS, lengths=RequestLengths(output=Fixed(1))), 50)
    assert {(one.topic, one.prompt_tokens) for one in own} == {(0, 4), (1, 5)}


def test_a_trace_ends_and_its_times_are_kept():
    requests = list(SimulatedWorkload(arrivals=Replayed(trace=TRACE), loads=SyntheticTopics()).requests(0))
    assert column(requests, "arrived_s") == [0, 0.5, 2.0]
    assert [request.tokens for request in requests] == [14, 16, 18]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lengths": RequestLengths(output=Fixed(1))}, "lengths.prompt"),
        ({"lengths": RequestLengths(prompt=Fixed(1))}, "lengths.output"),
        ({"num_requests": 0}, "num_requests"),
        ({"arrivals": Poisson(rate_per_s=1.0, topic_mix=(1.0,))}, "topic_mix"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_before_anything_runs(change, field):
    with pytest.raises(ConfigError) as refused:
        dataclasses.replace(MIXED, **change)
    assert refused.value.field == field


def test_a_seed_is_a_number_of_at_least_zero():
    with pytest.raises(ConfigError, match="seed"):
        MIXED.requests(-1)


def test_many_requests_take_no_memory():
    tracemalloc.start()
    for _ in itertools.islice(MIXED.requests(0), 30_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6, "30,000 load vectors are 14 MB"
