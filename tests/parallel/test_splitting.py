"""A batch split over ranks: each request once, as one process splits it, and no rank with another batch."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evenmoe
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.models.prediction import true_loads
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.parallel import Group, gather_loads, shard, split_batch
from evenmoe.routing import Baseline, TokenDrop
from evenmoe.scheduling import ASSIGN_METHODS, assign
from tests.parallel.thread_ranks import run_ranks


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(1, 4), st.sampled_from(ASSIGN_METHODS))
def test_every_request_is_on_one_rank_as_assign_has_it(seed, num_requests, num_ranks, method):
    rng = np.random.default_rng(seed)
    loads, tokens = rng.integers(0, 5, (num_requests, 4)), rng.integers(1, 9, num_requests)
    parts = run_ranks(num_ranks, lambda group: split_batch(group, loads, tokens, method=method, seed=seed))
    expected = assign(loads, tokens, num_devices=num_ranks, method=method, rng=np.random.default_rng(seed))
    assert parts == [np.flatnonzero(expected == rank).tolist() for rank in range(num_ranks)]
    assert sorted(row for part in parts for row in part) == list(range(num_requests))


def test_two_numbers_per_rank_are_compared_and_nothing_else_is_sent():
    def worker(group):
        split_batch(group, np.eye(6))
        return group.calls

    assert run_ranks(3, worker) == [[("all_gather", (2,))]] * 3


@pytest.mark.parametrize("change", ["another load", "one request less"])
def test_ranks_that_were_given_different_batches_stop(change):
    def worker(group):
        loads = np.array([[9.0, 1.0]] * 2 + [[1.0, 9.0]] * 2)
        if group.rank == 1:
            loads = loads[[0, 2, 1, 3]] if change == "another load" else loads[:3]
        return split_batch(group, loads)

    with pytest.raises(ShapeError, match="different batches"):
        run_ranks(2, worker)


def test_a_single_process_has_the_whole_batch():
    assert split_batch(Group.alone(), np.eye(3)) == [0, 1, 2]
    with pytest.raises(ConfigError, match="method"):
        split_batch(Group.alone(), np.eye(3), method="best")


@pytest.mark.slow
def test_what_the_ranks_run_is_what_one_process_runs_with_the_same_shares():
    whole = tiny_model("olmoe")
    ids_BS = tiny_inputs("olmoe", 6, 12)["input_ids"]
    with evenmoe.attach(whole, Baseline()) as attached:
        load_BX = true_loads(whole, attached, list(ids_BS.numpy())).reshape(6, -1)
    policy, device_B = TokenDrop(gamma=1.0), assign(load_BX, num_devices=2)
    with evenmoe.attach(whole, policy, num_devices=2, min_tokens=1) as attached, torch.inference_mode():
        with attached.assign(device_B.tolist()):
            expected = whole(ids_BS).logits
        expected_drop_rate = attached.loads.drop_rate
    parts = [copy.deepcopy(whole) for _ in range(2)]

    def worker(group):
        rows, part = split_batch(group, load_BX), parts[group.rank]
        parallel = shard(part, group)
        with (
            evenmoe.attach(part, policy, parallel=parallel, min_tokens=1) as attached,
            torch.inference_mode(),
        ):
            return rows, part(ids_BS[rows]).logits, gather_loads(attached).drop_rate

    rows, logits, drop_rates = zip(*run_ranks(2, worker), strict=True)
    assert [np.flatnonzero(device_B == rank).tolist() for rank in range(2)] == list(rows)
    for own_rows, own_logits in zip(rows, logits, strict=True):
        torch.testing.assert_close(own_logits, expected[own_rows], rtol=1e-5, atol=1e-5)
    assert set(drop_rates) == {expected_drop_rate}
    assert expected_drop_rate > 0
