"""The scheduler in transformers' place: fcfs is its FIFO, nobody is lost, and loads decide who joins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

from evenmoe.errors import ConfigError
from evenmoe.serving.admission import Shape
from evenmoe.serving.config import serving_config_of
from evenmoe.serving.transformers import ExpertAwareScheduler, configured
from evenmoe.serving.transformers.configuring import Configured
from tests.serving.transformers.steps import FakeCache, Loop

SHAPE = Shape(num_layers=1, num_experts=4, top_k=1)


def loop_of(scheduling=None, routing=None, room=4, **cache):
    config = serving_config_of({"scheduling": scheduling or {}, "routing": routing or {}})
    with Configured(config, SHAPE) as settings_:
        return Loop(ExpertAwareScheduler(FakeCache(**cache), None, room), settings_)


def of_clients(strategy, **more):
    return {"strategy": strategy, "predictor": "client", **more}


def load(*experts):
    return np.bincount(experts, minlength=4).astype(np.float32)


def joined(steps):
    """Keys in the order in which they first ran."""
    return list(dict.fromkeys(key for step in steps for key, _ in step))


requests = st.lists(
    st.tuples(st.integers(1, 90), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=25
)
"""Prompt tokens, new tokens, and how many steps run before the next one comes."""


def play(loop, script, cancelled=()):
    for index, (prompt, new, steps) in enumerate(script):
        loop.add(f"r{index}", prompt, new)
        for _ in range(steps):
            loop.step()
        if index in cancelled:
            loop.cancel(f"r{index - 1}")
    return loop.run()


@settings(max_examples=60)
@given(script=requests, room=st.integers(1, 5), cancelled=st.sets(st.integers(1, 24), max_size=3))
@pytest.mark.parametrize("strategy", ["fcfs", "auto"])
def test_fcfs_and_auto_without_a_predictor_are_transformers_own_order(strategy, script, room, cancelled):
    theirs = Loop(FIFOScheduler(FakeCache(), None, room))
    ours = loop_of({"strategy": strategy}, room=room)
    assert play(ours, script, cancelled) == play(theirs, script, cancelled)
    assert ours.done == theirs.done


@settings(max_examples=60)
@given(
    script=requests,
    room=st.integers(1, 5),
    strategy=st.sampled_from(["greedy_variance", "best_fit", "lpt", "differencing", "power_of_d", "random"]),
    data=st.data(),
)
def test_whatever_the_strategy_every_token_runs_once(script, room, strategy, data):
    loop = loop_of(of_clients(strategy, max_passed_over=3), room=room)
    for index, (prompt, new, steps) in enumerate(script):
        experts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
        loop.add(f"r{index}", prompt, new, load_X=load(*experts))
        for _ in range(steps):
            loop.step()
    steps = loop.run()
    ran = {}
    for step in steps:
        assert sum(tokens for _, tokens in step) <= 64
        assert len(step) <= room
        for key, tokens in step:
            ran[key] = ran.get(key, 0) + tokens
    assert ran == {f"r{index}": prompt + new - 1 for index, (prompt, new, _) in enumerate(script)}
    assert sorted(loop.done) == sorted(ran)
    told = loop.scheduler.snapshot()
    assert (told.num_waiting, told.num_running, told.num_admitted) == (0, 0, len(script))
    assert told.passed_over.sum <= 3 * len(script)
    assert sum(told.passed_over.counts) == len(script)


def test_requests_of_different_experts_share_a_step():
    loop = loop_of(of_clients("greedy_variance"), room=2)
    for index in range(8):
        loop.add(f"r{index}", 8, 1, load_X=load(0) if index < 4 else load(1))
    topics = [[int(key[1:]) // 4 for key, _ in step] for step in loop.run()]
    assert all(sorted(step) == [0, 1] for step in topics)
    plain = loop_of({"strategy": "fcfs"}, room=2)
    for index in range(8):
        plain.add(f"r{index}", 8, 1)
    assert plain.run() == [[(f"r{2 * step + place}", 8) for place in (0, 1)] for step in range(4)]


def test_who_runs_already_counts():
    loop = loop_of(of_clients("greedy_variance"), room=2)
    loop.add("runs", 8, 9, load_X=load(0))
    loop.step()
    loop.add("alike", 8, 1, load_X=load(0))
    loop.add("other", 8, 1, load_X=load(1))
    assert [key for key, _ in loop.step()] == ["runs", "other"]


def test_null_alike_requests_go_in_order_of_arrival():
    loop = loop_of(of_clients("greedy_variance"), room=3)
    for index in range(9):
        loop.add(f"r{index}", 8, 2, load_X=load(index % 1))
    assert joined(loop.run()) == [f"r{index}" for index in range(9)]


def test_the_aging_bound():
    loop = loop_of(of_clients("greedy_variance", max_passed_over=2), room=2)
    loop.add("runs", 4, 500, load_X=load(0))
    loop.step()
    loop.add("unwelcome", 4, 1, load_X=load(0))
    for index in range(20):
        loop.add(f"r{index}", 4, 1, load_X=load(1))
    steps = [[key for key, _ in loop.step()] for _ in range(4)]
    assert steps == [["runs", "r0"], ["runs", "r1"], ["runs", "unwelcome"], ["runs", "r2"]]


def test_priority_goes_first_and_is_kept_by_those_that_wait_again():
    loop = loop_of(room=1)
    for key, priority in (("low", 5), ("mid", 0), ("high", -1)):
        loop.add(key, 4, 3, priority=priority)
    assert [key for key, _ in loop.step()] == ["high"]
    state = loop.scheduler.active_requests["high"]
    loop.add("higher", 4, 1, priority=-2)
    again = state.create_equivalent_initial_request()  # as transformers does where the cache is full
    loop.scheduler.finish_request("high")
    loop.scheduler.add_waiting_request(again)
    assert joined(loop.run()) == ["high", "higher", "mid", "low"]
    assert [step[0][0] for step in loop.steps][:3] == ["high", "higher", "high"]


def test_who_lost_the_cache_goes_before_who_never_ran():
    loop = loop_of(room=1)
    for key in ("first", "second"):
        loop.add(key, 4, 3)
    loop.step()
    again = loop.scheduler.active_requests["first"].create_equivalent_initial_request()
    loop.scheduler.finish_request("first")
    loop.scheduler.add_waiting_request(again)
    assert [step[0][0] for step in loop.run()] == ["first", "first", "first", "second", "second", "second"]
    assert loop.scheduler.snapshot().num_admitted == 3  # times that somebody left the queue to run


@settings(max_examples=40)
@given(script=requests)
def test_with_an_isolating_policy_prompts_are_not_cut(script):
    routing = {"gamma": 1.0, "options": {"isolation": "strict"}}
    loop = loop_of({}, routing, room=4)
    whole = {f"r{index}": min(prompt, 64) for index, (prompt, _, _) in enumerate(script)}
    script = [(min(prompt, 64), new, steps) for prompt, new, steps in script]
    seen = set()
    for step in play(loop, script):
        for key, tokens in step:
            assert tokens == (1 if key in seen else whole[key])
            seen.add(key)
    assert joined(loop.steps) == list(whole)


def test_a_step_says_its_tokens_and_who_begins():
    loop = loop_of(room=2)
    loop.add("a", 70, 2)
    loop.step()
    first = loop.scheduler.taken_step()
    assert (first.num_tokens, first.num_new_requests) == (64, 1)
    assert loop.scheduler.taken_step() is None
    loop.add("b", 5, 1)
    loop.step()
    second = loop.scheduler.taken_step()
    assert (second.num_tokens, second.num_new_requests) == (11, 1)


def test_a_name_that_is_taken_leaves_the_first_request_alone():
    loop = loop_of()
    loop.add("a", 4, 2)
    with pytest.raises(ConfigError, match="key = 'a'"):
        loop.add("a", 9, 2)
    assert loop.run() == [[("a", 4)], [("a", 1)]]


def test_a_name_may_be_used_again_when_its_request_is_done():
    loop = loop_of()
    loop.add("a", 4, 1)
    loop.step()
    loop.add("a", 9, 1)
    assert loop.step() == [("a", 9)]
    with loop.configured:
        after = Loop(ExpertAwareScheduler(FakeCache(), None, 4), loop.configured)
    after.add("a", 3, 1)
    assert after.run() == [[("a", 3)]]
    assert after.scheduler.snapshot().num_admitted == 3


def test_without_a_configuration_it_says_how_to_give_one():
    assert SCHEDULER_MAPPING["evenmoe"] is ExpertAwareScheduler
    with pytest.raises(ConfigError, match=r"scheduler_type = 'evenmoe'.*configured"):
        ExpertAwareScheduler(FakeCache(), None, 4)
    with configured(serving_config_of({})):
        ExpertAwareScheduler(FakeCache(), None, 4)
    with pytest.raises(ConfigError):
        ExpertAwareScheduler(FakeCache(), None, 4)
