"""Which text goes out when, with which topic."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.evaluation.texts import heldout_texts as heldout_of_evaluation
from evenmoe.serving.load import heldout_texts, num_repeated, plan_load, prompts_of_texts, topic_mix
from evenmoe.simulation.workloads.arrivals import Bursty, Poisson, Replayed
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


def replay(trace, prompts=PROMPTS, **options):
    return plan_load(Replayed(trace=trace), prompts, num_requests=len(trace), **options)


def test_times_are_divided_by_the_speedup_and_lengths_come_from_the_trace():
    plan = replay(trace(), speedup=2.0)
    assert [one.at_s for one in plan] == [0.0, 0.5, 2.0]
    assert [one.max_tokens for one in plan] == [1, 2, 3]
    assert [one.max_tokens for one in replay(trace(), max_tokens=2)] == [1, 2, 2]


@given(st.integers(1, 30), st.integers(0, 5))
def test_no_text_of_a_topic_comes_again_before_all_have_been(count, seed):
    plan = replay(trace(np.arange(count, dtype=float)), seed=seed)
    uses = Counter(one.text for one in plan)
    for topic in ("code", "chat"):
        of_topic = [uses[prompt.text] for prompt in PROMPTS if prompt.topic == topic]
        assert max(of_topic) - min(of_topic) <= 1
    assert num_repeated(plan) == count - len(uses)
    assert all(one.text.startswith(one.topic) for one in plan)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    poisson = Poisson(rate_per_s=3.0)
    plans = [plan_load(poisson, PROMPTS, num_requests=9, seed=seed) for seed in (3, 3, 4)]
    assert plans[0] == plans[1] != plans[2]


def test_a_traces_topics_choose_the_texts():
    plan = replay(trace(topics=("chat", "code"), topic_N=[0, 1, 0]))
    assert [one.topic for one in plan] == ["chat", "code", "chat"]


def test_a_topic_without_a_text_is_named():
    with pytest.raises(ConfigError, match=r"topic of made.csv = 'law'.*code, chat"):
        replay(trace(topics=("law",), topic_N=[0, 0, 0]))


def test_arrivals_without_lengths_have_the_tokens_asked_for_and_begin_at_once():
    plan = plan_load(Poisson(rate_per_s=5.0), PROMPTS, num_requests=400, max_tokens=7)
    assert {one.max_tokens for one in plan} == {7}
    assert plan[0].at_s == 0
    gaps = np.diff([one.at_s for one in plan])
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.2, abs=4 * 0.2 / math.sqrt(399))


def test_everything_at_once():
    plan = plan_load(Poisson(rate_per_s=1.0), PROMPTS, num_requests=5, speedup=math.inf)
    assert [one.at_s for one in plan] == [0.0] * 5


def test_requests_of_a_burst_share_their_topic():
    topics = [
        one.topic for one in plan_load(Bursty(rate_per_s=1.0, burst_requests=20), PROMPTS, num_requests=600)
    ]
    changes = sum(a != b for a, b in pairwise(topics))
    assert changes == pytest.approx(600 / 20 / 2, rel=0.8)  # half of the bursts draw the topic that was on
    alone = [one.topic for one in plan_load(Poisson(rate_per_s=1.0), PROMPTS, num_requests=600)]
    assert sum(a != b for a, b in pairwise(alone)) > 200


def test_topics_are_as_frequent_as_their_prompts():
    prompts = [Prompt(text="a", topic="rare"), *(Prompt(text=str(i), topic="usual") for i in range(9))]
    mix = topic_mix(prompts)
    assert mix == (1.0, 9.0)
    plan = plan_load(Poisson(rate_per_s=1.0, topic_mix=mix), prompts, num_requests=1000)
    assert sum(one.topic == "rare" for one in plan) == pytest.approx(100, abs=40)


@pytest.mark.parametrize(
    "wrong", [{"speedup": 0.0}, {"speedup": math.nan}, {"max_tokens": 0}, {"num_requests": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        plan_load(Poisson(rate_per_s=1.0), PROMPTS, **({"num_requests": 3} | wrong))


def test_nothing_to_ask_is_refused():
    with pytest.raises(ConfigError, match="prompts"):
        replay(trace(), prompts=[])


@given(st.text(alphabet="ab \n\t", min_size=1, max_size=60), st.integers(1, 6))
def test_text_is_cut_into_pieces_of_so_many_words_in_order(text, words):
    pieces = text.split()
    if len(pieces) < words:
        with pytest.raises(ConfigError, match="prompt_words"):
            prompts_of_texts({"t": text}, words)
        return
    prompts = prompts_of_texts({"t": text}, words)
    assert [len(prompt.text.split()) for prompt in prompts] == [words] * (len(pieces) // words)
    assert [word for prompt in prompts for word in prompt.text.split()] == pieces[: words * len(prompts)]
    assert all(prompt.text in text for prompt in prompts)  # white space as it was


def test_the_text_that_ships_is_the_one_evaluations_read():
    assert heldout_texts() == heldout_of_evaluation()
