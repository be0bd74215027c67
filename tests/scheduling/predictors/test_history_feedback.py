"""What is learned while requests are served: the running mean, and the correction of a predictor."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors import Feedback, History, cosine

LOADS = st.lists(
    st.tuples(st.integers(1, 50), st.sampled_from([None, "a", "b"]), st.integers(0, 2**32 - 1)), max_size=8
)


def load_of(tokens, seed, num_layers=2, num_experts=4, top_k=2):
    """A load in which every token has K experts."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(num_experts)[:top_k] for _ in range(tokens * num_layers)]
    return np.stack(
        [
            np.bincount(np.concatenate(chosen[layer::num_layers]), minlength=num_experts)
            for layer in range(num_layers)
        ]
    )


class Fixed:
    """Predicts the same pairs for each token."""

    def __init__(self, rate_LE):
        self.rate_LE = np.asarray(rate_LE, dtype=float)
        self.num_layers, self.num_experts = self.rate_LE.shape
        self.top_k = round(self.rate_LE[0].sum())

    def predict(self, ids_T, topic=None):
        return self.rate_LE * len(ids_T)


def test_history_is_the_mean_of_a_topic():
    history = History(1, 2, 1)
    assert history.predict([1, 2]).tolist() == [[1.0, 1.0]]
    for _ in range(200):
        history.observe(10, [[10, 0]], "a")
        history.observe(10, [[0, 10]], "b")
    assert history.predict([0] * 10, "a")[0] == pytest.approx([10, 0], abs=0.3)
    assert history.predict([0] * 10, "b")[0] == pytest.approx([0, 10], abs=0.3)
    for topic in (None, "unknown"):
        assert history.predict([0] * 10, topic)[0] == pytest.approx([5, 5], abs=0.05)


def test_history_with_a_half_life_forgets():
    stays, forgets = History(1, 2, 1), History(1, 2, 1, half_life_tokens=100)
    for history in (stays, forgets):
        history.observe(1000, [[1000, 0]])
        history.observe(1000, [[0, 1000]])
    assert stays.rate()[0] == pytest.approx([0.5, 0.5], abs=0.01)
    assert forgets.rate()[0] == pytest.approx([0.0, 1.0], abs=0.01)


@given(observed=LOADS, tokens=st.integers(0, 9), half_life=st.sampled_from([None, 20.0]))
def test_history_keeps_totals(observed, tokens, half_life):
    history = History(2, 4, 2, half_life_tokens=half_life)
    for number, topic, seed in observed:
        history.observe(number, load_of(number, seed), topic)
    for topic in (None, "a", "never seen"):
        predicted_LE = history.predict([0] * tokens, topic)
        np.testing.assert_allclose(predicted_LE.sum(-1), 2 * tokens)
        assert (predicted_LE >= 0).all()


@given(observed=LOADS, tokens=st.integers(0, 9))
def test_feedback_keeps_totals_and_starts_as_the_predictor(observed, tokens):
    feedback = Feedback(Fixed(np.array([[0.8, 0.6, 0.4, 0.2]] * 2)), half_life_tokens=100)
    ids_T = [0] * tokens
    np.testing.assert_allclose(feedback.predict(ids_T), feedback.predictor.predict(ids_T))
    assert math.isnan(feedback.cosines["mean"])
    for number, topic, seed in observed:
        feedback.observe([0] * number, load_of(number, seed), topic)
    for topic in (None, "a", "never seen"):
        np.testing.assert_allclose(feedback.predict(ids_T, topic).sum(-1), 2 * tokens, rtol=1e-6)


def stream(rng, rate_LE, requests, tokens=64):
    """Loads of requests whose tokens choose one expert each."""
    return [np.stack([rng.multinomial(tokens, rate_E) for rate_E in rate_LE]) for _ in range(requests)]


def errors(feedback, loads, topic=None):
    """Mean 1 - cosine of what was predicted before each load was shown: plain and corrected."""
    ids_T, plain, corrected = [0] * 64, [], []
    for load_LE in loads:
        plain.append(1 - cosine(feedback.predictor.predict(ids_T), load_LE).mean())
        corrected.append(1 - cosine(feedback.predict(ids_T, topic), load_LE).mean())
        feedback.observe(ids_T, load_LE, topic)
    return np.mean(plain), np.mean(corrected)


RATE = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])


def test_feedback_follows_traffic_that_drifts():
    rng = np.random.default_rng(0)
    feedback = Feedback(Fixed(RATE), half_life_tokens=2000)
    errors(feedback, stream(rng, RATE, 200))
    plain, corrected = errors(feedback, stream(rng, RATE[:, ::-1], 200))
    assert corrected < 0.4 * plain


def test_feedback_hurts_nothing_where_the_prediction_is_right():
    """A null test."""
    plain, corrected = errors(Feedback(Fixed(RATE)), stream(np.random.default_rng(0), RATE, 400))
    assert corrected < 1.02 * plain


def test_feedback_learns_topics_apart():
    rng = np.random.default_rng(0)
    feedback = Feedback(Fixed(np.full((2, 4), 0.25)))
    scores = {}
    for _ in range(100):
        for topic, rate_LE in (("a", RATE), ("b", RATE[:, ::-1])):
            scores[topic] = errors(feedback, stream(rng, rate_LE, 1), topic)
    assert all(corrected < 0.3 * plain for plain, corrected in scores.values())
    assert feedback.trusted


def test_a_prediction_that_is_worse_than_the_mean_is_not_used():
    rng = np.random.default_rng(0)

    class Nonsense(Fixed):
        def predict(self, ids_T, topic=None):
            return rng.dirichlet([0.1] * 4, 2) * len(ids_T)

    feedback = Feedback(Nonsense(RATE))
    for load_LE in stream(rng, RATE, 50):
        feedback.observe([0] * 64, load_LE)
    assert not feedback.trusted
    recent = feedback.cosines
    assert recent["mean"] > recent["corrected"]
    assert (cosine(feedback.predict([0] * 64), RATE) > 0.99).all()


def test_a_batch_may_be_observed_as_one():
    one, other = Feedback(Fixed(RATE)), Feedback(Fixed(RATE))
    loads = stream(np.random.default_rng(3), RATE[:, ::-1], 4)
    one.update(sum(one.predictor.predict([0] * 64) for _ in loads), sum(loads), 256)
    other.update(other.predictor.predict([0] * 256), sum(loads), 256)
    np.testing.assert_allclose(one.predict([0]), other.predict([0]))
    assert cosine(one.predict([0]), RATE[:, ::-1]).mean() > cosine(RATE, RATE[:, ::-1]).mean()


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_half_lives_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="half_life_tokens"):
        History(1, 2, 1, half_life_tokens=value)
    with pytest.raises(ConfigError, match="half_life_tokens"):
        Feedback(Fixed(RATE), half_life_tokens=value)


@pytest.mark.parametrize(
    ("load", "error"),
    [
        ([[1.0, 2.0]], ShapeError),
        ([[-1, 0, 0, 0]] * 2, ConfigError),
        ([[math.nan, 0, 0, 0]] * 2, ConfigError),
    ],
)
def test_what_is_no_load_is_refused(load, error):
    for learner in (History(2, 4, 1), Feedback(Fixed(RATE))):
        with pytest.raises(error):
            learner.observe(3, load) if isinstance(learner, History) else learner.observe([0] * 3, load)
    with pytest.raises(ConfigError):
        History(2, 4, 1).observe(0, np.zeros((2, 4)))
    with pytest.raises(ConfigError):
        History(0, 4, 1)
