"""Calibration: what it repairs, what it leaves alone, and fitting a prior to recorded prompts."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors import (
    Calibrated,
    Calibration,
    History,
    RecordedPrompts,
    TokenCounter,
    cosine,
    fit_calibration,
    fit_token_prior,
    measure_accuracy,
)
from tests.scheduling.predictors.prediction_cases import topical


def test_a_calibration_worked_by_hand():
    change_LEE = np.array([[[0.0, 0.5], [-2.0, 0.0]]], dtype=np.float32)
    # expert 0: 4 - 2 * 6 < 0, so none; expert 1: 6 + 0.5 * 4 = 8; scaled to the total of 10
    assert Calibration(change_LEE).apply(np.array([[4.0, 6.0]])).tolist() == [[0.0, 10.0]]


@given(seed=st.integers(0, 2**32 - 1), num_loads=st.integers(0, 3))
def test_totals_are_kept_and_nothing_is_negative(seed, num_loads):
    rng = np.random.default_rng(seed)
    load_NLE = rng.integers(0, 4, (num_loads, 2, 3)).astype(float)
    calibration = Calibration(3 * rng.normal(size=(2, 3, 3)).astype(np.float32))
    changed_NLE = calibration.apply(load_NLE)
    assert (changed_NLE >= 0).all()
    np.testing.assert_allclose(changed_NLE.sum(-1), load_NLE.sum(-1))
    for load_LE, changed_LE in zip(load_NLE, changed_NLE, strict=True):
        np.testing.assert_allclose(calibration.apply(load_LE), changed_LE)


def test_a_load_of_which_nothing_is_left_stays_as_it_was():
    calibration = Calibration(-2 * np.eye(2, dtype=np.float32)[None])
    assert calibration.apply(np.array([[1.0, 3.0]])).tolist() == [[1.0, 3.0]]


def test_topics_that_share_tokens_are_told_apart():
    learned, measured = [topical(seed=1, num_prompts=20) for _ in range(4)], topical(seed=1, num_prompts=80)
    prior = fit_token_prior(learned)
    assert prior.calibration is not None
    topics = ["one", "other"] * 40
    plain, calibrated = (
        measure_accuracy("", one, measured.prompts, measured.load_NLE, topics, num_top=2)
        for one in (prior.replace(calibration=None), prior)
    )
    assert plain.cosine < 0.96
    assert calibrated.cosine > 0.985


def test_predictions_that_are_right_are_left_nearly_alone():
    """A null test: predictions that are right but for noise, new ones."""
    rng = np.random.default_rng(0)
    rate_N2E = np.exp(rng.normal(size=(160, 2, 6)))
    rate_N2E /= rate_N2E.sum(-1, keepdims=True)
    true_N2E = np.stack([[rng.multinomial(400, rate_E) for rate_E in rate_2E] for rate_2E in rate_N2E])
    calibration = fit_calibration(rate_N2E[:80], true_N2E[:80], (np.arange(80) % 4).tolist())
    new_N2E = rate_N2E[80:] if calibration is None else calibration.apply(rate_N2E[80:])
    before, after = (float(cosine(one, true_N2E[80:]).mean()) for one in (rate_N2E[80:], new_N2E))
    assert after > before - 0.001


def test_one_fold_is_not_calibrated_and_none_is_refused():
    assert fit_token_prior([topical(seed=2)]).calibration is None
    with pytest.raises(ConfigError):
        fit_token_prior([])


def test_a_prior_that_is_worse_than_the_mean_says_so(caplog):
    """The same tokens go to other experts in each fold."""
    folds = []
    for fold in range(2):
        counter = TokenCounter(1, 4, 1)
        ids_T = np.arange(40)
        chosen_TE = np.eye(4, dtype=bool)[(ids_T + 2 * fold) % 4]
        counter.add_seen(ids_T)
        counter.add(0, ids_T, chosen_TE)
        prompts = tuple(ids_T[start::4] for start in range(4))
        load_NLE = np.stack([chosen_TE[start::4].sum(0)[None] for start in range(4)])
        folds.append(RecordedPrompts(prompts=prompts, load_NLE=load_NLE, counts=counter.counts()))
    with caplog.at_level(logging.WARNING, logger="evenmoe"):
        fit_token_prior(folds)
    assert "do not use it" in caplog.text


def test_shapes_that_disagree_are_refused():
    loads = np.ones((4, 2, 3))
    with pytest.raises(ShapeError):
        fit_calibration(loads, np.ones((4, 2, 4)), [0, 0, 1, 1])
    with pytest.raises(ShapeError):
        fit_calibration(loads, loads, [0, 1])
    with pytest.raises(ConfigError):
        fit_calibration(loads, loads, [0, 0, 0, 0])
    with pytest.raises(ShapeError):
        Calibration(np.zeros((2, 3, 4), dtype=np.float32))
    with pytest.raises(ConfigError):
        Calibration(np.full((1, 2, 2), np.inf, dtype=np.float32))
    with pytest.raises(ShapeError):
        Calibrated(History(2, 3, 1), Calibration(np.zeros((1, 3, 3), dtype=np.float32)))
