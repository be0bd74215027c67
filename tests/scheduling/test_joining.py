"""The batch scheduler for engines whose requests join a batch that runs already."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling import STRATEGIES, BatchScheduler, SchedulerConfig, select

CODE, BOOK = [6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 6.0]


def filled(loads, tokens=None, **config):
    scheduler = BatchScheduler(SchedulerConfig(**config), clock=lambda: 0.0)
    for key, load in enumerate(loads):
        scheduler.submit(key, load, tokens=0 if tokens is None else tokens[key])
    return scheduler


def keys(batch):
    return [request.key for request in batch]


@pytest.mark.parametrize("strategy", ["greedy_variance", "greedy_dot_product", "peak_excess"])
def test_what_runs_counts_as_picked(strategy):
    scheduler = filled([CODE, CODE, BOOK, BOOK], strategy=strategy)
    assert keys(scheduler.next_batch(flush=True, room=1, running_X=CODE)) == [2]
    assert keys(scheduler.next_batch(flush=True, room=1, running_X=BOOK)) == [0]
    assert keys(scheduler.next_batch(flush=True, room=2, running_X=CODE)) == [1, 3], "all that wait fit"
    assert len(scheduler) == 0


@pytest.mark.parametrize("strategy", ["fcfs", "auto"])
def test_in_a_shallow_queue_it_is_the_order_of_arrival_whatever_runs(strategy):
    scheduler = filled([CODE, CODE, BOOK], strategy=strategy)
    assert keys(scheduler.next_batch(flush=True, room=2, running_X=CODE)) == [0, 1]


def test_nobody_is_passed_over_for_ever():
    scheduler = filled([CODE] + [BOOK] * 9, strategy="greedy_variance", max_passed_over=3)
    order = [keys(scheduler.next_batch(flush=True, room=1, running_X=CODE))[0] for _ in range(5)]
    assert order == [1, 2, 3, 0, 4], "the oldest goes first once three batches went without it"


def test_a_request_that_can_be_cut_counts_for_the_tokens_that_are_left():
    scheduler = filled([CODE, BOOK, BOOK], tokens=[100, 30, 30], strategy="fcfs")
    assert keys(scheduler.next_batch(flush=True, room=3, most_tokens=40)) == [0]
    assert keys(scheduler.next_batch(flush=True, room=3, most_tokens=60)) == [1, 2]


def test_room_and_tokens_are_bounds():
    with pytest.raises(ConfigError, match="room = 0"):
        filled([CODE]).next_batch(flush=True, room=0)
    with pytest.raises(ConfigError, match="most_tokens = 0"):
        filled([CODE]).next_batch(flush=True, most_tokens=0)
    scheduler = filled([CODE, BOOK] * 5, strategy="lpt")
    with pytest.raises(ShapeError):
        scheduler.next_batch(flush=True, room=2, running_X=[1.0])
    scheduler.check_integrity()
    assert len(scheduler.next_batch(flush=True, room=2)) == 2


@settings(max_examples=80)
@given(st.data(), st.sampled_from(STRATEGIES))
def test_nothing_is_lost_or_doubled_while_requests_join(data, strategy):
    loads = data.draw(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=30))
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=len(loads), max_size=len(loads)))
    scheduler = filled(loads, tokens, strategy=strategy, window_size=8, max_passed_over=2, num_layers=2)
    done = []
    while len(scheduler):
        room, most = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([None, 1, 9, 20]))
        running = data.draw(st.sampled_from([None, [0, 0, 0, 0], [7, 0, 0, 3]]))
        batch = scheduler.next_batch(flush=True, room=room, most_tokens=most, running_X=running)
        assert 1 <= len(batch) <= room
        assert most is None or sum(min(request.tokens, most) for request in batch) <= most
        done += keys(batch)
        scheduler.check_integrity()
    assert sorted(done) == list(range(len(loads)))


@settings(max_examples=60)
@given(st.data(), st.sampled_from(STRATEGIES))
def test_where_there_is_no_choice_the_batch_is_the_one_that_select_would_pick(data, strategy):
    """`next_batch` does not ask the strategy where all fit, nor for fcfs."""
    count = data.draw(st.integers(1, 12))
    size = data.draw(st.integers(1 if strategy == "fcfs" else count, 12))
    loads = data.draw(
        st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=count, max_size=count)
    )
    scheduler = filled(loads, strategy=strategy, max_batch_size=size, window_size=12)
    picked = select(strategy, loads, size, rng=np.random.default_rng(0))
    assert keys(scheduler.next_batch(flush=True)) == picked.tolist()
