"""Which device's share a request joins: even shares, each request once, unlike requests together."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling import ASSIGN_METHODS, BatchScheduler, SchedulerConfig, assign
from evenmoe.scheduling.assignment import overlap, share_load
from tests.oracles import scheduling as slow

PAGE = Path(__file__).parents[2] / "docs" / "assignment.md"
seeds = st.integers(0, 2**32 - 1)


def run(loads, num_devices, method="balanced", tokens=None):
    rng = np.random.default_rng(0)
    return assign(loads, tokens, num_devices=num_devices, method=method, rng=rng).tolist()


@pytest.mark.parametrize("method", ASSIGN_METHODS)
@settings(max_examples=40)
@given(seed=seeds, num_requests=st.integers(0, 20), num_devices=st.integers(1, 6))
def test_every_request_has_one_device_and_shares_are_even(method, seed, num_requests, num_devices):
    loads = np.random.default_rng(seed).integers(0, 4, (num_requests, 3))
    devices = run(loads, num_devices, method)
    counts = [devices.count(device) for device in range(num_devices)]
    assert sum(counts) == len(devices) == num_requests
    assert max(counts) - min(counts) <= 1
    assert devices == run(loads, num_devices, method), "the same again"


def test_arrival_is_what_attach_does_by_itself_and_random_a_shuffle_of_it():
    loads = np.ones((7, 2))
    assert run(loads, 3, "arrival") == [0, 0, 0, 1, 1, 2, 2]
    assert sorted(run(loads, 3, "random")) == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(ConfigError, match="rng"):
        assign(loads, num_devices=3, method="random")


def test_two_domains_are_dealt_over_all_devices():
    code, book = [9.0, 1.0], [1.0, 9.0]
    devices = np.array(run([code] * 4 + [book] * 4, 4))
    assert sorted(devices[:4]) == sorted(devices[4:]) == [0, 1, 2, 3]


@settings(max_examples=25)
@given(seeds, st.integers(2, 7), st.integers(2, 3))
def test_overlap_is_near_the_least_of_all_and_no_exchange_lowers_it(seed, num_requests, num_devices):
    loads = np.random.default_rng(seed).integers(0, 9, (num_requests, 4)).tolist()
    devices = run(loads, num_devices)
    mine = slow.overlap(loads, devices)
    assert overlap(loads, devices, num_devices) == mine
    assert slow.least_overlap(loads, num_devices) <= mine <= 1.15 * slow.least_overlap(loads, num_devices)
    for one in range(num_requests):
        for other in range(one):
            exchanged = list(devices)
            exchanged[one], exchanged[other] = devices[other], devices[one]
            assert slow.overlap(loads, exchanged) >= mine


@settings(max_examples=40)
@given(seeds, st.integers(2, 9), st.integers(1, 4))
def test_no_exchange_that_keeps_the_tokens_even_lowers_the_overlap(seed, num_requests, num_devices):
    rng = np.random.default_rng(seed)
    loads = rng.integers(0, 9, (num_requests, 3)).tolist()
    tokens = rng.integers(0, 4, num_requests).tolist()
    devices = run(loads, num_devices, tokens=tokens)
    mine = slow.overlap(loads, devices)
    most = max(slow.tokens_by_device(tokens, devices))
    for one in range(num_requests):
        for other in range(one):
            exchanged = list(devices)
            exchanged[one], exchanged[other] = devices[other], devices[one]
            if max(slow.tokens_by_device(tokens, exchanged)) <= most:
                assert slow.overlap(loads, exchanged) >= mine


@settings(max_examples=60)
@given(seeds, st.integers(1, 24), st.integers(1, 6), st.booleans())
def test_balanced_is_never_worse_than_arrival(seed, num_requests, num_devices, is_even):
    rng = np.random.default_rng(seed)
    loads = rng.integers(0, 5, (num_requests, 3))
    tokens = np.full(num_requests, 7) if is_even else rng.integers(0, 5, num_requests)

    def cost(method):
        devices = run(loads, num_devices, method, tokens)
        return max(slow.tokens_by_device(tokens.tolist(), devices)), slow.overlap(loads.tolist(), devices)

    assert cost("balanced") <= cost("arrival")


def test_a_batch_that_is_balanced_already_stays_as_it_came():
    code, book = [9.0, 1.0], [1.0, 9.0]
    loads = [code, book] * 3
    arrival = run(loads, 3, "arrival")
    assert overlap(loads, run(loads, 3), 3) == overlap(loads, arrival, 3)
    assert overlap(loads, arrival, 3) == 3 * (10**2 + 10**2)


def test_the_load_of_a_share_is_the_sum_of_its_requests():
    loads = [[1, 2], [3, 4], [5, 6]]
    assert share_load(loads, [1, 0, 1], 3).tolist() == [[3, 4], [6, 8], [0, 0]]


def test_it_is_seldom_far_from_the_least_of_all():
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(15):
        loads = rng.integers(0, 9, (7, 4)).tolist()
        ratios.append(slow.overlap(loads, run(loads, 3)) / slow.least_overlap(loads, 3))
    assert np.mean(ratios) < 1.01


@settings(max_examples=40)
@given(seeds, st.integers(1, 24), st.integers(1, 5))
def test_tokens_are_shared_out_within_one_request(seed, num_requests, num_devices):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 300, num_requests)
    devices = np.array(run(rng.random((num_requests, 4)), num_devices, tokens=tokens))
    tokens_D = np.bincount(devices, weights=tokens, minlength=num_devices)
    assert tokens_D.sum() == tokens.sum()
    assert tokens_D.max() <= tokens.sum() / num_devices + tokens.max()


@settings(max_examples=25)
@given(seeds)
def test_balanced_overlaps_less_than_arrival_in_bursts(seed):
    rng = np.random.default_rng(seed)
    topics = np.exp(2 * rng.standard_normal((3, 12)))
    loads = topics[np.sort(rng.integers(0, 3, 24))] * rng.uniform(0.8, 1.2, (24, 12))
    by_method = {method: overlap(loads, run(loads, 4, method), 4) for method in ASSIGN_METHODS}
    assert by_method["balanced"] <= min(by_method.values())


def test_what_is_not_allowed_is_named():
    loads = np.ones((3, 2))
    for arguments in ({"num_devices": 0}, {"num_devices": 2, "method": "best"}):
        with pytest.raises(ConfigError):
            assign(loads, **arguments)
    with pytest.raises(ConfigError, match="tokens_B"):
        assign(loads, [1, -1, 1], num_devices=2)
    with pytest.raises(ShapeError, match="tokens_B"):
        assign(loads, [1, 1], num_devices=2)
    with pytest.raises(ShapeError):
        assign([1.0, 2.0], num_devices=2)


def test_attach_takes_the_assignment():
    torch = pytest.importorskip("torch")
    from evenmoe.models.attach import attach
    from evenmoe.models.bundled import load_bundled
    from evenmoe.routing import TokenDrop

    model = load_bundled("text")
    ids = torch.arange(4 * 32).reshape(4, 32) % 512
    devices = assign(np.eye(4), num_devices=2)
    with attach(model, TokenDrop(gamma=1.0), num_devices=2) as attached, attached.assign(devices.tolist()):
        with torch.no_grad():
            model(ids)
        assert attached.loads.total.tokens_L.tolist() == [128] * len(attached.loads.layers)


@settings(max_examples=20)
@given(seeds, st.sampled_from(ASSIGN_METHODS))
def test_the_batch_scheduler_hands_out_the_same_shares(seed, method):
    rng = np.random.default_rng(seed)
    loads, tokens = rng.random((8, 3)), rng.integers(1, 9, 8).tolist()
    config = SchedulerConfig(strategy="fcfs", num_devices=3, assign=method, seed=seed)
    scheduler = BatchScheduler(config, clock=lambda: 0.0)
    for key, load in enumerate(loads):
        scheduler.submit(key, load, tokens=tokens[key])
    batch = scheduler.next_batch(flush=True)
    expected = assign(loads, tokens, num_devices=3, method=method, rng=np.random.default_rng(seed))
    assert [(request.key, request.device) for request in batch] == list(enumerate(expected.tolist()))


def test_with_one_device_all_requests_are_on_it():
    scheduler = BatchScheduler(SchedulerConfig(), clock=lambda: 0.0)
    scheduler.submit("only", [1.0])
    assert [request.device for request in scheduler.next_batch(flush=True)] == [0]
    with pytest.raises(ConfigError, match="assign"):
        SchedulerConfig(assign="best")
    with pytest.raises(ConfigError, match="num_devices"):
        SchedulerConfig(num_devices=0)


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 8
