"""The batch scheduler: when a batch is due, nothing lost or doubled, nobody passed over for ever, any thread."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling import STRATEGIES, BatchScheduler, SchedulerConfig


class Clock:
    def __init__(self):
        self.now_ms = 0.0

    def __call__(self):
        return self.now_ms


def scheduler_of(clock=None, **config):
    return BatchScheduler(SchedulerConfig(**config), clock=clock or Clock())


def keys(batch):
    return [request.key for request in batch]


def test_a_batch_is_due_at_the_trigger_or_after_the_interval():
    clock = Clock()
    scheduler = scheduler_of(clock, strategy="fcfs")
    assert scheduler.due_ms() is None
    assert scheduler.next_batch() is None
    for key in range(15):
        scheduler.submit(key, [1.0, 2.0], payload=f"request {key}")
        clock.now_ms += 1
    assert scheduler.due_ms() == 100.0, "the first came at 0 and has waited 100 ms then"
    assert scheduler.next_batch() is None
    scheduler.submit(15, [1.0, 2.0])
    assert scheduler.due_ms() == 15.0
    batch = scheduler.next_batch()
    assert keys(batch) == list(range(8))
    assert batch[3].payload == "request 3"
    assert batch[3].arrived_ms == 3.0
    assert scheduler.next_batch() is None, "8 left: under the trigger"
    assert scheduler.due_ms() == 108.0, "request 8 is the oldest"
    clock.now_ms = 108.0
    assert keys(scheduler.next_batch()) == list(range(8, 16))
    scheduler.submit("late", [1.0, 1.0])
    assert scheduler.next_batch() is None
    assert keys(scheduler.next_batch(flush=True)) == ["late"]
    assert len(scheduler) == 0


def test_only_the_window_is_looked_at():
    scheduler = scheduler_of(strategy="lpt", window_size=9, max_batch_size=2)
    for key in range(20):
        scheduler.submit(key, [float(key)])
    assert keys(scheduler.next_batch()) == [0, 8], "the longest of the oldest nine"


@settings(max_examples=60)
@given(st.data(), st.sampled_from(STRATEGIES), st.integers(0, 6), st.sampled_from([None, 12]))
def test_nothing_is_lost_or_doubled_and_nobody_is_passed_over_too_often(data, strategy, bound, budget):
    config = {"max_batch_size": 4, "window_size": 12, "min_batch_trigger": 6, "num_layers": 2}
    scheduler = scheduler_of(strategy=strategy, max_passed_over=bound, token_budget=budget, **config)
    waiting, done, cancelled, next_key = [], [], [], 0
    for action in data.draw(st.lists(st.sampled_from("ssssssbbc"), max_size=60)) + ["b"] * 30:
        if action == "s":
            load = data.draw(st.lists(st.integers(0, 5), min_size=4, max_size=4))
            scheduler.submit(next_key, load, tokens=data.draw(st.integers(0, 12)))
            waiting.append(next_key)
            next_key += 1
        elif action == "c" and waiting:
            gone = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            assert scheduler.cancel(gone)
            assert not scheduler.cancel(gone)
            cancelled.append(gone)
        elif batch := scheduler.next_batch(flush=True):
            assert batch[0].key == waiting[0], "the oldest first"
            assert len(batch) <= 4
            assert budget is None or sum(request.tokens for request in batch) <= budget
            assert all(request.passed_over <= bound for request in batch)
            for key in keys(batch):
                waiting.remove(key)
            done += keys(batch)
        scheduler.check_integrity()
        assert len(scheduler) == len(waiting)
    assert sorted(done + cancelled) == list(range(next_key))


def test_without_a_bound_that_bites_a_request_waits_for_its_turn_as_the_oldest():
    def passed_over(bound):
        scheduler = scheduler_of(strategy="lpt", max_batch_size=2, window_size=40, max_passed_over=bound)
        times = []
        for key in range(100):
            scheduler.submit(key, [1.0 if key < 20 else 9.0])
        while batch := scheduler.next_batch(flush=True):
            times += [request.passed_over for request in batch]
        return max(times)

    assert passed_over(64) > 16
    assert passed_over(2) == 2
    assert passed_over(0) == 0


def test_the_same_seed_gives_the_same_batches():
    def batches(seed):
        scheduler = scheduler_of(strategy="power_of_d", seed=seed)
        loads = np.random.default_rng(0).random((64, 5))
        for key in range(64):
            scheduler.submit(key, loads[key])
        return [keys(scheduler.next_batch(flush=True)) for _ in range(8)]

    assert batches(1) == batches(1) != batches(2)


def test_many_threads_submit_and_take_and_every_request_is_handed_out_once():
    scheduler = scheduler_of(strategy="greedy_variance", min_batch_trigger=1)
    taken, errors, all_in = [], [], threading.Event()
    start = threading.Barrier(8)

    def guarded(work):
        def run(number):
            try:
                start.wait(10)
                work(number)
            except Exception as error:
                errors.append(error)

        return run

    def submit(number):
        rng = np.random.default_rng(number)
        for index in range(150):
            scheduler.submit((number, index), rng.random(6))

    def take(number):
        while not (all_in.is_set() and len(scheduler) == 0):
            batch = scheduler.next_batch(flush=True)
            taken.extend(keys(batch) if batch else [])

    submitters = [threading.Thread(target=guarded(submit), args=(n,)) for n in range(4)]
    takers = [threading.Thread(target=guarded(take), args=(n,)) for n in range(4)]
    for thread in submitters + takers:
        thread.start()
    for thread in submitters:
        thread.join(30)
    all_in.set()
    for thread in takers:
        thread.join(30)
    assert errors == []
    assert sorted(taken) == [(number, index) for number in range(4) for index in range(150)]
    scheduler.check_integrity()


def test_the_check_when_idle_finds_a_lost_request():
    scheduler = scheduler_of()
    for key in range(3):
        scheduler.submit(key, [1.0])
    del scheduler._queue[1]
    with pytest.raises(AssertionError, match="3 submitted"):
        scheduler.next_batch(flush=True)


def test_what_cannot_be_queued_is_refused_and_leaves_the_queue_as_it_was():
    scheduler = scheduler_of(token_budget=10)
    scheduler.submit("a", [1.0, 2.0], tokens=10)
    for arguments, error in (
        (("a", [1.0, 2.0]), ConfigError),
        (("b", [1.0]), ShapeError),
        (("b", [1.0, -2.0]), ConfigError),
    ):
        with pytest.raises(error):
            scheduler.submit(*arguments)
    with pytest.raises(ConfigError, match="token budget, 10"):
        scheduler.submit("b", [1.0, 2.0], tokens=11)
    assert keys(scheduler.next_batch(flush=True)) == ["a"]
