"""The plain sentence: every rule once, at its edges, and what it never says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.advice import (
    MIN_CAPACITY,
    MIN_LATENCY,
    UNCLEAR,
    Baseline,
    Change,
    Outcome,
    advise,
    words,
)
from evenmoe.simulation.studies.intervals import Spread

DEEP = Baseline(straggler_factor=1.5, overloaded=False, waiting=30.0, batch_size=8)
SHALLOW = Baseline(straggler_factor=1.5, overloaded=False, waiting=1.2, batch_size=8)
OVERLOADED = Baseline(straggler_factor=1.5, overloaded=True, waiting=900.0, batch_size=8)


def gain(mean, half=0.01, seeds=4):
    if seeds == 1:
        return Spread(mean=mean, std=0.0, low=None, high=None)
    return Spread(mean=mean, std=half, low=mean - half, high=mean + half)


def outcome(
    strategy="auto", *, capacity=0.05, mean=0.2, p99=0.1, half=0.01, seeds=4, overloaded=False, drop=None, same=None
):  # fmt: skip
    return Outcome(
        strategy=strategy,
        mean=Change(total=gain(mean, half, seeds)),
        p99=Change(total=gain(p99, half, seeds)),
        capacity=Change(
            total=gain(capacity, half, seeds), same_lengths=None if same is None else gain(same, half)
        ),
        straggler_factor=1.37,
        overloaded=overloaded,
        drop=None if drop is None else Change(total=gain(drop, half, seeds)),
    )


@pytest.mark.parametrize(
    ("fcfs", "outcomes", "verdict", "reason"),
    [
        (DEEP, [outcome()], "on", "pays"),
        (DEEP, [outcome(p99=0.0)], "on", "pays"),
        (DEEP, [outcome(p99=0.0, mean=0.0)], "on", "capacity"),
        (SHALLOW, [outcome(p99=0.0, mean=0.0)], "off", "shallow"),
        (SHALLOW, [outcome()], "on", "pays"),
        (DEEP, [outcome(p99=-0.2)], "off", "harmful"),
        (DEEP, [outcome(p99=-0.2, capacity=0.3, half=0.25)], "undecided", "unclear"),
        (DEEP, [outcome(p99=-0.02, mean=0.0, capacity=0.3, half=0.25)], "on", "capacity"),
        (DEEP, [outcome(capacity=0.015)], "off", "noise"),
        (DEEP, [outcome(capacity=0.05, half=0.06)], "off", "noise"),
        (DEEP, [outcome(capacity=0.0, mean=0.0, p99=0.0, half=0.0)], "off", "noise"),
        (DEEP, [outcome(capacity=0.1, same=0.005)], "off", "noise"),
        (DEEP, [outcome(capacity=0.0, same=0.05)], "off", "lengths"),
        (DEEP, [outcome(capacity=0.03, same=0.05)], "on", "pays"),
        (DEEP, [outcome(capacity=0.0, drop=0.2)], "on", "drops less"),
        (DEEP, [outcome(capacity=0.0, drop=0.2, p99=-0.1)], "off", "noise"),
        (OVERLOADED, [outcome(p99=-0.3)], "on", "relieves"),
        (OVERLOADED, [outcome(overloaded=True)], "on", "overload"),
        (OVERLOADED, [outcome(capacity=0.0, overloaded=True)], "off", "overload"),
        (DEEP, [outcome(seeds=1)], "undecided", "one seed"),
        (OVERLOADED, [outcome(seeds=1)], "undecided", "one seed"),
    ],
)
def test_each_rule(fcfs, outcomes, verdict, reason):
    advice = advise(fcfs, outcomes)
    assert (advice.verdict, advice.reason) == (verdict, reason)
    start = {"on": "Turn it on with auto: ", "off": "Leave it off: ", "undecided": "Not decided: "}[verdict]
    assert advice.sentence.startswith(start)
    assert advice.sentence.endswith(".")


def test_one_strategy_that_pays_is_enough_and_one_that_harms_does_not_count():
    advice = advise(DEEP, [outcome("greedy_variance", capacity=0.08, p99=-0.3), outcome("auto")])
    assert (advice.reason, advice.strategy) == ("pays", "auto")


def test_the_most_certain_gain_is_spoken_of_not_the_largest():
    sure, unsure = outcome("auto", capacity=0.05), outcome("random", capacity=0.08, half=0.07)
    assert advise(DEEP, [unsure, sure]).strategy == "auto"
    assert advise(DEEP, [sure, unsure]).strategy == "auto"


def test_the_sentence_has_the_numbers():
    sentence = advise(DEEP, [outcome(same=0.042)]).sentence
    assert "4.2% more requests of one length (95% interval 3.2% to 5.2%)" in sentence
    assert "by their lengths" in advise(DEEP, [outcome()]).sentence
    assert "straggler factor 1.37 instead of 1.50" in sentence
    assert "mean latency is 20.0% lower (95% interval 19.0% to 21.0%)" in sentence


def test_a_loss_is_worded_as_one():
    assert words(gain(-0.2, 0.3)) == "20.0% higher (95% interval -10.0% to 50.0%)"
    assert words(gain(0.02), "more", "fewer") == "2.0% more (95% interval 1.0% to 3.0%)"
    assert words(gain(0.0, 0.0)) == "unchanged"


def test_without_a_strategy_beside_fcfs_there_is_nothing_to_say():
    with pytest.raises(ConfigError, match="strategies"):
        advise(DEEP, [])


shares = st.floats(-0.9, 0.9)
halves = st.floats(0.0, 0.5)


@given(
    capacity=shares, mean=shares, p99=shares, half=halves, waiting=st.floats(0, 100), overloaded=st.booleans()
)
def test_it_never_turns_on_what_does_not_clearly_serve_more(capacity, mean, p99, half, waiting, overloaded):
    fcfs = Baseline(straggler_factor=1.5, overloaded=overloaded, waiting=waiting, batch_size=8)
    advice = advise(fcfs, [outcome(capacity=capacity, mean=mean, p99=p99, half=half)])
    clearly = capacity - half > 0 and capacity >= MIN_CAPACITY
    assert clearly or advice.verdict == "off"
    harms = p99 <= -UNCLEAR or (p99 + half < 0 and p99 <= -MIN_LATENCY)
    assert overloaded or not harms or advice.verdict != "on"
