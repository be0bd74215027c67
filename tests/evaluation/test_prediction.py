"""Predictors beside each other on the bundled model and a tiny one, and the command that prints them."""

import json

import numpy as np
import pytest

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.evaluation.prediction import PREDICTORS, halves, study_predictors
from evenmoe.evaluation.texts import cut_windows, heldout_texts
from evenmoe.models.bundled import bundled_tokenizer, load_bundled
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.scheduling.predictors import TokenCounter, TokenPrior, read_token_prior


def test_halves_are_the_text_and_do_not_overlap():
    texts = {"lines": "one\ntwo\nthree\nfour\n", "a line": "abcdefgh"}
    first, second = halves(texts)
    assert {domain: first[domain] + second[domain] for domain in texts} == texts
    assert first["lines"].endswith("\n")
    assert (first["a line"], second["a line"]) == ("abcd", "efgh")
    with pytest.raises(ConfigError):
        halves({"short": "x"})


@pytest.mark.slow
def test_the_bundled_models_prior_is_worth_having():
    """The target: a cosine of at least 0.93 over the layers, on text that was not learned from."""
    model, tokenizer = load_bundled("text"), bundled_tokenizer("text")
    learning, measuring = halves(heldout_texts())
    learned = cut_windows(learning, tokenizer, num_windows=256, window_tokens=256)
    measured = cut_windows(measuring, tokenizer, num_windows=32, window_tokens=256)
    study = study_predictors(model, ["token-prior", "gates", "mean", "full"], measured, learned)
    scores = {row.name: row for row in study.rows}
    assert scores["full"].cosine == pytest.approx(1.0, abs=1e-4)
    assert scores["token-prior"].cosine > 0.97
    assert scores["token-prior, uncalibrated"].cosine > 0.92
    assert scores["gates, calibrated"].cosine > 0.93
    assert scores["mean"].cosine < 0.8
    assert scores["gates"].cosine < scores["mean"].cosine
    assert study.coverage > 0.95


@pytest.fixture(scope="module")
def tiny(request):
    folder = request.getfixturevalue("tiny_checkpoint")
    return load(folder), load_tokenizer(folder)


@pytest.fixture
def windows(tiny, text_files):
    from evenmoe.evaluation.texts import read_texts

    learning, measuring = halves(read_texts(text_files))
    return [cut_windows(half, tiny[1], num_windows=8, window_tokens=32) for half in (measuring, learning)]


def test_every_predictor_is_scored_and_the_prior_can_be_measured_again(tiny, windows):
    measured, learned = windows
    study = study_predictors(tiny[0], PREDICTORS, measured, learned, model_name="tiny")
    names = [row.name for row in study.rows]
    assert [name for name in names if "," not in name] == list(PREDICTORS)
    assert not study.refused
    again = study_predictors(tiny[0], ["token-prior", "mean"], measured, prior=study.prior)
    for row in again.rows:
        np.testing.assert_array_equal(row.cosine_L, study.rows[names.index(row.name)].cosine_L)
    assert json.dumps(study.as_dict())
    assert study.prior.domains == ("numbers", "words")


def test_what_cannot_be_studied_is_refused(tiny, windows):
    measured, learned = windows
    with pytest.raises(ConfigError, match="one of token-prior"):
        study_predictors(tiny[0], ["oracle"], measured, learned)
    with pytest.raises(ConfigError, match="learned"):
        study_predictors(tiny[0], ["full"], measured)
    counter = TokenCounter(2, 9, 2)
    counter.add_seen([1])
    other = TokenPrior(counts=_counted(counter))
    with pytest.raises(ConfigError, match="history"):
        study_predictors(tiny[0], ["history"], measured, prior=other)
    with pytest.raises(ShapeError, match="the prior is for"):
        study_predictors(tiny[0], ["token-prior"], measured, prior=other)


def _counted(counter):
    for layer in range(2):
        counter.add(layer, [1], np.eye(9, dtype=bool)[:1])
    return counter.counts()


def test_all_predictors_are_all_that_can_be_measured(tmp_path):
    from evenmoe.cli.profile_predictors import plan_study

    texts = {"a": "first\nsecond\n"}
    measuring, plan = plan_study(texts, ["all"], None, None)
    assert tuple(plan.names) == PREDICTORS
    assert (plan.learning, measuring) == halves(texts)
    counter = TokenCounter(2, 9, 2)
    counter.add_seen([1])
    path = TokenPrior(counts=_counted(counter)).save(tmp_path / "prior.npz")
    measuring, plan = plan_study(texts, ["all"], None, path)
    assert set(PREDICTORS) - set(plan.names) == {"history"}
    assert (measuring, plan.learning) == (texts, {})
    assert plan_study(texts, None, None, None) == (texts, None)


def test_the_command_learns_measures_and_saves(evenmoe, tiny_checkpoint, text_files, tmp_path):
    texts = [part for path in text_files for part in ("--text", path)]
    small = ["--windows", 8, "--window-tokens", 32, "--devices", 2]
    out, data = tmp_path / "out", tmp_path / "prediction.json"
    command = ["profile", tiny_checkpoint, *texts, *small, "--out", out]
    status, printed, _ = evenmoe(
        *command, "--predictor", "token-prior", "--predictor", "full", "--json", data
    )
    assert status == 0
    assert "token-prior" in printed
    assert "Token prior:" in printed
    body = json.loads(data.read_text())
    assert body == json.loads((out / "prediction.json").read_text())
    assert body["rows"][-1]["predictor"] == "full"
    assert body["rows"][-1]["cosine"] == pytest.approx(1.0)
    assert len(body["rows"][0]["cosine_by_layer"]) == 2
    assert (out / "loads.json").exists()
    prior = read_token_prior(out / "token_prior.npz")
    assert prior.model == str(tiny_checkpoint)

    status, printed, _ = evenmoe(*command, "--predictor", "token-prior", "--prior", out / "token_prior.npz")
    assert status == 0
    assert "Token prior:" not in printed
    assert "The prior knows" in printed


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--prior", "x.npz"], "--predictor"),
        (["--learn-text", "x.txt"], "--predictor"),
        (["--predictor", "mean", "--prior", "x.npz", "--learn-text", "x.txt"], "--prior"),
        (["--predictor", "guess"], "one of token-prior"),
        (["--predictor", "mean", "--prior", "x.json"], "ends in .npz"),
    ],
)
def test_options_that_cannot_act_are_refused(evenmoe, tiny_checkpoint, text_files, tmp_path, options, named):
    command = ["profile", tiny_checkpoint, "--text", text_files[0], "--windows", 2, "--window-tokens", 16]
    status, _, error = evenmoe(*command, "--devices", 2, "--out", tmp_path, *options)
    assert status == 2
    assert named in error
