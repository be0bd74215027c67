"""Plans of the batch scheduler, loads that are predicted late, and loads that are revised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling import STRATEGIES, BatchScheduler, SchedulerConfig, Window

CODE, BOOK = [6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 6.0]
LOADS = st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=30)


def filled(loads, **config):
    scheduler = BatchScheduler(SchedulerConfig(**config), clock=lambda: 0.0)
    for key, load in enumerate(loads):
        scheduler.submit(key, load)
    return scheduler


def keys(batch):
    return [request.key for request in batch]


@settings(max_examples=80)
@given(LOADS, st.sampled_from(STRATEGIES), st.integers(1, 6), st.sampled_from([None, [7, 0, 0, 3]]))
def test_a_plan_is_the_batch_that_would_come_next_and_changes_nothing(loads, strategy, room, running):
    config = {"strategy": strategy, "window_size": 8, "max_passed_over": 2, "num_layers": 2}
    planned = filled(loads, **config).plan(room=room, running_X=running)
    scheduler = filled(loads, **config)
    scheduler.plan(room=room, running_X=running)
    scheduler.check_integrity()
    assert scheduler.oldest() == list(range(len(loads)))
    batch = filled(loads, **config).next_batch(flush=True, room=room, running_X=running)
    assert planned == keys(batch)


@settings(max_examples=80)
@given(st.data(), LOADS, st.sampled_from(STRATEGIES))
def test_batches_taken_after_plans_are_those_of_next_batch(data, loads, strategy):
    """Also who was passed over how often; `random` draws for a plan what it draws for a batch."""
    config = {"strategy": strategy, "window_size": 8, "max_passed_over": 2, "num_layers": 2}
    scheduler, other = filled(loads, **config), filled(loads, **config)
    while len(scheduler):
        room = data.draw(st.integers(1, 4))
        batch = scheduler.take(scheduler.plan(room=room, running_X=CODE))
        expected = other.next_batch(flush=True, room=room, running_X=CODE)
        assert sorted(keys(batch)) == sorted(keys(expected))
        times = {request.key: request.passed_over for request in expected}
        assert {request.key: request.passed_over for request in batch} == times
        scheduler.check_integrity()


def test_who_is_decided_on_counts_as_picked():
    scheduler = filled([CODE, CODE, BOOK, BOOK], strategy="greedy_variance")
    assert scheduler.plan(room=1, running_X=[0.0] * 4, taken=[0]) == [2]
    assert scheduler.plan(room=1, running_X=[0.0] * 4, taken=[2]) == [0]
    assert scheduler.plan(room=9, running_X=[0.0] * 4, taken=[0, 1]) == [2, 3]
    assert scheduler.plan(room=1, taken=[0, 1, 2, 3]) == []
    assert len(scheduler) == 4


def test_the_window_reaches_beyond_those_decided_on():
    scheduler = filled([CODE] * 20, strategy="lpt", window_size=8)
    assert scheduler.plan(room=3, taken=list(range(8))) == [8, 9, 10]


def test_one_step_passes_over_once_however_many_it_takes():
    scheduler = filled([CODE] * 6, strategy="lpt")
    scheduler.take([1, 2, 4])
    taken = {request.key: request.passed_over for request in scheduler.take([0, 3, 5])}
    assert taken == {0: 1, 3: 1, 5: 0}


def test_what_runs_is_asked_only_where_there_is_a_choice():
    def never():
        raise AssertionError

    assert filled([CODE, BOOK], strategy="peak_excess").plan(room=2, running_X=never) == [0, 1]
    assert filled([CODE, BOOK], strategy="fcfs").plan(room=1, running_X=never) == [0]
    scheduler = filled([CODE, BOOK], strategy="peak_excess")
    assert scheduler.plan(room=1, running_X=lambda: CODE) == [1]


def test_a_load_is_predicted_when_it_is_first_compared_and_once():
    asked = []

    def load_of(key):
        asked.append(key)
        return CODE if key % 2 else BOOK

    scheduler = BatchScheduler(SchedulerConfig(strategy="greedy_variance", window_size=8), clock=lambda: 0.0)
    for key in range(20):
        scheduler.submit(key, lambda key=key: load_of(key))
    assert asked == []
    scheduler.take(scheduler.plan(room=2, running_X=CODE))
    assert asked == list(range(8))
    scheduler.plan(room=2, running_X=CODE)
    scheduler.plan(room=2, running_X=CODE)
    assert asked == list(range(10))
    scheduler.check_integrity()


def test_a_late_load_is_checked_when_it_is_known():
    scheduler = BatchScheduler(SchedulerConfig(strategy="lpt", window_size=8), clock=lambda: 0.0)
    for key, load in enumerate((CODE, [1.0], CODE)):
        scheduler.submit(key, lambda load=load: load)
    with pytest.raises(ShapeError, match="1 entries, those of the queue 4"):
        scheduler.plan(room=1, running_X=CODE)


def test_what_is_not_there_cannot_be_taken():
    scheduler = filled([CODE])
    with pytest.raises(ConfigError, match="'x'"):
        scheduler.take(["x"])
    assert scheduler.take([]) == []
    assert not scheduler.revise("x", CODE)
    with pytest.raises(ConfigError, match="room = 0"):
        scheduler.plan(room=0)
    assert 0 in scheduler
    assert "x" not in scheduler


@settings(max_examples=60)
@given(st.data(), LOADS, st.sampled_from(["greedy_variance", "peak_excess", "differencing"]))
def test_a_revised_load_is_as_if_it_had_been_so_from_the_start(data, loads, strategy):
    config = {"strategy": strategy, "window_size": 8, "num_layers": 2}
    scheduler = filled(loads, **config)
    scheduler.plan(room=2, running_X=BOOK)
    changed = dict(
        data.draw(st.lists(st.tuples(st.integers(0, len(loads) - 1), st.sampled_from(loads)), max_size=9))
    )
    for key, load in changed.items():
        assert scheduler.revise(key, load)
    scheduler.check_integrity()
    expected = filled([changed.get(key, load) for key, load in enumerate(loads)], **config)
    assert scheduler.plan(room=2, running_X=BOOK) == expected.plan(room=2, running_X=BOOK)


@settings(max_examples=40)
@given(st.data(), st.booleans())
def test_a_window_with_a_replaced_load_is_one_that_was_made_of_it(data, keeps):
    loads = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=2, max_size=12))
    window = Window(4, num_layers=2, keep_products=keeps)
    window.add(loads)
    window.dots(0)
    index, load = data.draw(st.integers(0, len(loads) - 1)), data.draw(st.sampled_from(loads))
    window.replace(index, np.array(load, dtype=float))
    other = Window.of([load if place == index else one for place, one in enumerate(loads)], num_layers=2)
    for place in range(len(loads)):
        assert np.allclose(window.dots(place), other.dots(place))
    assert np.allclose(window.norm_W, other.norm_W)
    assert np.allclose(window.total_W, other.total_W)
