"""Which text goes out when, and what the figures of a run are, by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.serving.load import Record, plan_load, summarise
from evenmoe.serving.load.results import Percentiles
from evenmoe.simulation.workloads.prompts import Prompt
from evenmoe.simulation.workloads.traces import Trace


def trace(times_s=(0.0, 1.0, 4.0), topics=(), topic_N=None):
    count = len(times_s)
    return Trace(
        source="made.csv",
        times_s=np.array(times_s),
        prompt_tokens=np.full(count, 7),
        output_tokens=np.arange(1, count + 1),
        topics=topics,
        topic_N=None if topic_N is None else np.array(topic_N),
    )


PROMPTS = [Prompt(text=f"{topic}{i}", topic=topic) for topic in ("code", "chat") for i in range(2)]


def test_times_are_divided_by_the_speedup_and_lengths_come_from_the_trace():
    plan = plan_load(trace(), PROMPTS, speedup=2.0)
    assert [one.at_s for one in plan] == [0.0, 0.5, 2.0]
    assert [one.max_tokens for one in plan] == [1, 2, 3]
    assert [one.max_tokens for one in plan_load(trace(), PROMPTS, most_output_tokens=2)] == [1, 2, 2]


@given(st.integers(1, 30), st.integers(0, 5))
def test_no_text_comes_again_before_all_have_been(count, seed):
    plan = plan_load(trace(np.arange(count, dtype=float)), PROMPTS, seed=seed)
    uses = Counter(one.text for one in plan)
    assert max(uses.values()) - min(uses[prompt.text] for prompt in PROMPTS) <= 1


def test_the_same_seed_gives_the_same_plan():
    assert plan_load(trace(), PROMPTS, seed=3) == plan_load(trace(), PROMPTS, seed=3)


def test_a_traces_topics_choose_the_texts():
    plan = plan_load(trace(topics=("chat", "code"), topic_N=[0, 1, 0]), PROMPTS)
    assert [one.topic for one in plan] == ["chat", "code", "chat"]


def test_a_topic_without_a_text_is_named():
    with pytest.raises(ConfigError, match=r"topic = 'law'.*chat, code"):
        plan_load(trace(topics=("law",), topic_N=[0, 0, 0]), PROMPTS)


@pytest.mark.parametrize("wrong", [{"speedup": 0.0}, {"speedup": float("nan")}, {"most_output_tokens": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan_load(trace(), PROMPTS, **wrong)


def record(index, planned_s, sent_s, ended_s, outcome="finished", **more):
    return Record(
        index=index, topic="t", planned_s=planned_s, sent_s=sent_s, ended_s=ended_s, outcome=outcome, **more
    )


def test_figures_by_hand():
    records = [
        record(0, 0.0, 0.0, 2.0, first_s=1.0, last_s=2.0, num_tokens=3, num_prompt_tokens=4),
        record(1, 1.0, 1.5, 4.0, first_s=2.0, last_s=4.0, num_tokens=2, num_prompt_tokens=6),
        record(2, 3.0, 3.0, 3.5, "refused", error="no"),
    ]
    result = summarise(records, seconds=5.0)
    assert result.offered_per_s == pytest.approx(2 / 3)
    assert result.finished_per_s == pytest.approx(0.4)
    assert result.tokens_per_s == pytest.approx(1.0)
    assert (result.prompt_tokens, result.output_tokens) == (10, 5)
    assert (result.latency.count, result.latency.mean, result.latency.worst) == (2, 2.5, 3.0)
    assert result.ttft.p50 == pytest.approx(1.0)
    assert result.tpot.mean == pytest.approx((0.5 + 2.0) / 2)
    assert result.late.worst == pytest.approx(0.5)
    assert result.most_in_flight == 2
    assert result.outcomes == {"finished": 2, "refused": 1}
    assert result.errors == {"no": 1}


def test_all_at_once_has_no_rate_and_nothing_finished_no_latency():
    result = summarise([record(0, 0.0, 0.0, 1.0, "failed", error="x")], seconds=1.0)
    assert result.offered_per_s is None
    assert result.latency is None


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=40))
def test_percentiles_are_in_order(values):
    found = Percentiles.of(values)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= found.worst == max(values)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=15))
def test_most_in_flight_is_what_counting_at_every_start_gives(spans):
    records = [record(i, a, a, a + b) for i, (a, b) in enumerate(spans)]
    slow = max(sum(r.sent_s <= at.sent_s and r.ended_s >= at.sent_s for r in records) for at in records)
    assert summarise(records, 1.0).most_in_flight == slow
