"""Admission: nobody lost or admitted twice, priorities, those put back, the bound on being passed over."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.scheduling import STRATEGIES, BatchScheduler, SchedulerConfig
from evenmoe.serving.admission import Admission, Shape
from evenmoe.serving.admission.workload import even_snapshot
from evenmoe.serving.config import RoutingConfig, SchedulingConfig

SHAPE = Shape(num_layers=2, num_experts=4, top_k=1)
CODE = np.array([6, 2, 0, 0] * 2, dtype=np.float32)
BOOK = CODE[::-1].copy()
LOADS = [CODE, BOOK, np.ones(8, dtype=np.float32), None]


def admission_of(strategy="greedy_variance", *, shape=SHAPE, most_of_one=1000, routing=None, **config):
    settings = SchedulingConfig(strategy=strategy, **{"predictor": "client"} | config)
    return Admission(settings, shape=shape, most_of_one=most_of_one, routing=routing)


def order(admission, room=100, most_tokens=10**6, running=None):
    return list(admission.order(room=room, most_tokens=most_tokens, running=running))


def nobody():
    raise AssertionError("asked who runs where there is nothing to choose")


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(STRATEGIES), st.sampled_from([0, 1, 2, 4]))
def test_nobody_is_lost_or_admitted_twice_and_the_bound_holds(data, strategy, bound):
    """A step admits any number from the front of the order, tries some in vain, preempts and cancels others."""
    admission = admission_of(strategy, window_size=6, max_passed_over=bound, most_of_one=20)
    waiting, running, done, name = {}, {}, set(), 0
    for action in data.draw(st.lists(st.sampled_from("sssssttpcf"), max_size=50)) + ["t", "f"] * 40:
        if action == "s":
            priority = data.draw(st.integers(0, 1))
            tokens = data.draw(st.integers(1, 60))
            admission.submit(
                name,
                [1] * tokens,
                priority=priority,
                cached_tokens=data.draw(st.integers(0, tokens)),
                load_X=data.draw(st.sampled_from(LOADS)),
            )
            waiting[name] = priority
            name += 1
        elif action == "t" and waiting:
            parts = [(key, 1) for key in running]
            room = data.draw(st.integers(1, 4))
            ranked = order(admission, room, data.draw(st.integers(1, 60)), lambda parts=parts: parts)
            assert sorted(ranked) == sorted(waiting)
            assert [waiting[key] for key in ranked] == sorted(waiting.values()), "the best priority first"
            tried = ranked[: data.draw(st.integers(0, room))]
            in_vain = [key for key in tried if data.draw(st.integers(0, 5)) == 0]
            joined = [key for key in tried if key not in in_vain]
            for key in in_vain:
                admission.put_back(key, priority=waiting[key])
            admission.admitted(joined)
            for key in joined:
                running[key] = waiting.pop(key)
            admission.handed_out([*parts, *((key, 3) for key in joined)])
        elif action == "p" and running:
            key = data.draw(st.sampled_from(sorted(running)))
            waiting[key] = running.pop(key)
            admission.put_back(key, priority=waiting[key])
            assert next(other for other in admission if waiting[other] == waiting[key]) == key
        elif action == "c" and waiting:
            key = data.draw(st.sampled_from(sorted(waiting)))
            del waiting[key]
            assert admission.cancel(key)
            assert not admission.cancel(key)
            done.add(key)
        elif action == "f" and running:
            key = data.draw(st.sampled_from(sorted(running)))
            del running[key]
            admission.finished(key)
            done.add(key)
        assert sorted(admission) == sorted(waiting)
        assert len(admission) == len(waiting)
        admission.check_integrity()
    while waiting:
        admission.admitted(order(admission)[:1])
        (key,) = set(waiting) - set(admission)
        del waiting[key]
        admission.finished(key)
    passed_over = admission.snapshot(num_running=0).passed_over
    assert sum(passed_over.counts[passed_over.bounds.index(bound) + 1 :]) == 0
    for key in list(running):
        admission.finished(key)
    assert not list(admission)


@pytest.mark.parametrize("bound", [0, 1, 4])
def test_the_oldest_is_passed_over_as_often_as_the_bound_says(bound):
    admission = admission_of(max_passed_over=bound)
    admission.submit("runs", [1] * 50, load_X=CODE)
    admission.admitted(["runs"])
    admission.submit("oldest", [1] * 50, load_X=CODE)
    for name in range(10):
        admission.submit(name, [1] * 50, load_X=BOOK)
    went = []
    while "oldest" in admission:
        first = order(admission, room=1, running=lambda: [("runs", 500)])[0]
        admission.admitted([first])
        admission.finished(first)
        went.append(first)
    assert went == [*range(bound), "oldest"]


def test_a_step_that_admits_several_passes_over_once():
    admission = admission_of("lpt", max_passed_over=2)
    for name in range(6):
        admission.submit(name, [1] * (10 if name == 0 else 50), load_X=CODE)
    admission.admitted([1, 2, 3])
    assert order(admission, room=1, running=lambda: [(1, 1)])[0] == 4
    admission.admitted([4])
    assert order(admission, room=1, running=lambda: [(1, 1)])[0] == 0
    admission.admitted([0])
    passed_over = admission.snapshot(num_running=5).passed_over
    assert passed_over.counts[:4] == (4, 0, 1, 0)
    assert passed_over.sum == 2


def test_a_better_priority_goes_first_and_passes_nobody_over():
    admission = admission_of()
    admission.submit("usual", [1] * 9, load_X=CODE)
    admission.submit("urgent", [1] * 9, priority=-2, load_X=CODE)
    admission.submit("late", [1] * 9, priority=7, load_X=BOOK)
    assert order(admission, room=1) == ["urgent", "usual", "late"]
    admission.admitted(["urgent"])
    admission.admitted(["usual"])
    assert admission.snapshot(num_running=2).passed_over.counts[0] == 2


def test_the_next_priority_is_chosen_beside_those_of_the_first():
    admission = admission_of()
    admission.submit("urgent", [1] * 9, priority=-1, load_X=CODE)
    for name, load in (("a", CODE), ("b", CODE), ("c", BOOK)):
        admission.submit(name, [1] * 9, load_X=load)
    assert order(admission, room=2) == ["urgent", "c", "a", "b"]


def test_who_is_put_back_goes_first_the_last_before_the_others():
    admission = admission_of()
    for name in "abcd":
        admission.submit(name, [1] * 9, load_X=CODE)
    admission.admitted(["a", "b"])
    admission.put_back("b")
    admission.put_back("a")
    admission.put_back("d")
    assert order(admission, room=2) == list(admission) == ["d", "a", "b", "c"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50)), max_size=30),
    st.integers(1, 5),
    st.integers(1, 99),
)
def test_fcfs_is_the_order_of_arrival_whatever_runs_and_however_little_fits(requests, room, most_tokens):
    admission = admission_of("fcfs")
    for name, (priority, tokens) in enumerate(requests):
        admission.submit(name, [1] * tokens, priority=priority, load_X=BOOK if name % 2 else CODE)
    expected = sorted(range(len(requests)), key=lambda name: (requests[name][0], name))
    assert order(admission, room, most_tokens, nobody) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=15), st.integers(1, 5))
def test_the_order_begins_as_the_batch_scheduler_picks(kinds, room):
    """Where tokens do not count: the same requests, one definition of the strategies."""
    loads = [(CODE, BOOK)[kind] for kind in kinds]
    scheduler = BatchScheduler(
        SchedulerConfig(strategy="peak_excess", window_size=8, num_layers=2), clock=lambda: 0.0
    )
    admission = admission_of("peak_excess", window_size=8)
    admission.submit("runs", [1] * 10, load_X=CODE)
    admission.admitted(["runs"])
    for name, load in enumerate(loads):
        scheduler.submit(name, load / 8 * 10)
        admission.submit(name, [1] * 10, load_X=load)
    expected = scheduler.plan(room=room, running_X=CODE / 8 * 5)
    assert order(admission, room, running=lambda: [("runs", 5)])[: len(expected)] == expected


def test_the_plan_is_for_as_many_as_fit_into_the_tokens():
    """With tokens for one, the best beside what runs is asked for, not the best pair."""
    admission = admission_of("peak_excess")
    admission.submit("runs", [1] * 40, load_X=CODE)
    admission.admitted(["runs"])
    for name, load in (("a", CODE), ("b", CODE), ("c", BOOK), ("d", BOOK)):
        admission.submit(name, [1] * 40, load_X=load)
    assert order(admission, room=4, most_tokens=30, running=lambda: [("runs", 40)])[0] == "c"


def test_what_a_plan_leaves_of_the_tokens_is_planned_anew():
    """The oldest two would fill the step, so two are planned; the short ones chosen leave tokens for one more."""
    admission = admission_of("peak_excess")
    admission.submit("runs", [1] * 100, load_X=CODE)
    admission.admitted(["runs"])
    for name, load, tokens in (
        ("a", CODE, 50),
        ("b", CODE, 50),
        ("c", BOOK, 10),
        ("d", BOOK, 10),
        ("e", CODE, 90),
    ):
        admission.submit(name, [1] * tokens, load_X=load)
    admission.submit("f", [1] * 90, load_X=BOOK)
    asked = []

    def running():
        asked.append(1)
        return [("runs", 20)]

    assert order(admission, room=6, most_tokens=60, running=running)[:2] == ["c", "d"]
    assert len(asked) == 2
    asked.clear()
    order(admission, room=6, most_tokens=20, running=running)
    assert len(asked) == 2, "10 tokens of the first, then 10 are left"


def test_under_devices_the_load_of_devices_is_kept_even():
    """Experts 0 and 1 share a device: by experts they are unlike, by devices alike."""
    first, third, last = (np.eye(4, dtype=np.float32)[[one] * 2].reshape(-1) for one in (0, 2, 3))
    chosen = {}
    for devices in (1, 2):
        routing = RoutingConfig(num_devices=devices)
        admission = admission_of("peak_excess", routing=routing)
        admission.submit("runs", [1] * 40, load_X=first)
        admission.admitted(["runs"])
        admission.submit("near", [1] * 40, load_X=np.roll(first.reshape(2, 4), 1, axis=1).reshape(-1))
        admission.submit("third", [1] * 40, load_X=third)
        admission.submit("last", [1] * 40, load_X=last)
        chosen[devices] = order(admission, room=1, running=lambda: [("runs", 40)])[0]
    assert chosen == {1: "near", 2: "third"}


def test_what_is_cached_is_not_in_a_requests_load():
    admission = admission_of()
    admission.submit("runs", [1] * 40, load_X=CODE)
    admission.admitted(["runs"])
    admission.submit("new", [1] * 40, load_X=CODE)
    admission.submit("cached", [1] * 40, load_X=CODE)
    running = lambda: [("runs", 40)]  # noqa: E731
    assert order(admission, room=1, running=running)[0] == "new", "the older of equals"
    admission.cached("cached", 39)
    assert order(admission, room=1, running=running)[0] == "cached"
    admission.cached("cached", 40)
    assert admission.tokens("cached") == 1, "the last token of a prompt is always routed"
    admission.cached("gone", 3)


def test_without_a_shape_requests_go_in_order_of_arrival_until_the_first_snapshot():
    admission = admission_of(shape=None)
    admission.submit("runs", [1] * 40, load_X=CODE)
    admission.admitted(["runs"])
    for name, load in (("a", CODE), ("b", BOOK)):
        admission.submit(name, [1] * 40, load_X=load)
    assert not admission.chooses
    assert order(admission, room=1, running=nobody) == ["a", "b"]
    admission.handed_out([("runs", 40)])
    admission.observe(even_snapshot(SHAPE, 0))
    assert admission.chooses
    assert admission.shape == SHAPE
    assert order(admission, room=1, running=lambda: [("runs", 40)]) == ["b", "a"]
    admission.check_integrity()


def test_without_a_predictor_auto_is_the_order_of_arrival():
    admission = admission_of("auto", predictor="none")
    for name in range(9):
        admission.submit(name, [name] * 9)
    admission.observe(even_snapshot(SHAPE, 0))
    admission.handed_out([(0, 1)])
    assert not admission.chooses
    assert order(admission, room=1, running=nobody) == list(range(9))


def test_names_are_unique_until_a_request_is_finished():
    admission = admission_of()
    admission.submit("a", [1])
    with pytest.raises(ConfigError, match="key = 'a'"):
        admission.submit("a", [1])
    admission.admitted(["a", "a stranger"])
    with pytest.raises(ConfigError, match="key = 'a'"):
        admission.submit("a", [1])
    admission.finished("a")
    admission.finished("a")
    admission.submit("a", [1])
    with pytest.raises(ConfigError, match="most_of_one = 0"):
        admission_of(most_of_one=0)


def test_many_priorities_leave_nothing_behind():
    admission = admission_of()
    for name in range(200):
        admission.submit(name, [1] * 5, priority=name, load_X=CODE)
    for name in range(200):
        admission.admitted([name])
        admission.finished(name)
    assert len(admission._queues._queues) == 1
