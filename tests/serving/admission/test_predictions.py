"""What is predicted of a request, what is made of what was observed, and over which tokens the two are compared."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.scheduling.predictors import Feedback, read_token_prior
from evenmoe.serving.admission import Admission, Shape
from evenmoe.serving.admission.ledger import MOST_STEPS, Ledger
from evenmoe.serving.admission.predictions import Predictions
from evenmoe.serving.admission.rates import RateTable
from evenmoe.serving.admission.view import View
from evenmoe.serving.admission.workload import even_snapshot, write_prior
from evenmoe.serving.config import RoutingConfig, SchedulingConfig

SHAPE = Shape(num_layers=2, num_experts=4, top_k=1)


@pytest.fixture(scope="module")
def prior_path(tmp_path_factory):
    return write_prior(SHAPE, tmp_path_factory.mktemp("prior"))


def with_prior(path, **config):
    return SchedulingConfig(predictor="token-prior", prior=path, **config)


def test_a_prior_predicts_from_the_tokens_that_are_not_cached(prior_path):
    prior = read_token_prior(prior_path)
    predictions = Predictions(with_prior(prior_path), SHAPE, prior)
    ids = [5] * 10 + [900] * 4
    rate = predictions.rate(ids, 10, None)
    assert np.allclose(rate * 4, prior.predict([900] * 4).reshape(-1), rtol=1e-6)
    assert np.allclose(predictions.rate(ids, 14, None), prior.mean_LE.reshape(-1)), (
        "nothing is known of no tokens"
    )
    assert np.allclose(predictions.rate(None, 0, None), prior.mean_LE.reshape(-1))


def test_what_cannot_be_predicted_is_taken_as_the_mean_and_does_not_stop_the_engine(prior_path, caplog):
    predictions = Predictions(with_prior(prior_path), SHAPE, read_token_prior(prior_path))
    for ids in ([-1, 3], [[1, 2]], ["a"]):
        assert np.allclose(predictions.rate(ids, 0, None).reshape(2, 4).sum(-1), 1)
    assert predictions.num_unpredicted == 3
    assert caplog.text.count("cannot be predicted") == 1


@given(st.lists(st.floats(0, 2.0**90, width=32), min_size=8, max_size=8))
def test_of_a_clients_load_only_the_shape_counts(load):
    """Whatever is claimed, a token has K pairs in each layer: nobody gets ahead by claiming little."""
    predictions = Predictions(SchedulingConfig(predictor="client"), SHAPE, None)
    rate = predictions.rate([1], 0, np.array(load, dtype=np.float32)).reshape(2, 4)
    assert np.isfinite(rate).all()
    assert np.allclose(rate.sum(-1), SHAPE.top_k, rtol=1e-5)


def test_a_request_without_a_load_is_even_and_after_feedback_the_usual():
    predictions = Predictions(SchedulingConfig(predictor="client"), SHAPE, None)
    assert np.allclose(predictions.rate([1], 0, None), 0.25)
    predictions.observe(snapshot_of([[0, 0, 0, 0]] * 2, 0))
    predictions.handed_out([(predictions.rate([1], 0, None), 4000)])
    predictions.observe(snapshot_of([[3000, 1000, 0, 0]] * 2, 4000))
    usual = predictions.corrected(predictions.rate([1], 0, None)).reshape(2, 4)
    assert np.allclose(usual, [[0.75, 0.25, 0, 0]] * 2, atol=0.02)
    off = Predictions(SchedulingConfig(predictor="client", feedback=False), SHAPE, None)
    off.observe(snapshot_of([[0, 0, 0, 0]] * 2, 0))
    off.handed_out([(off.unknown_X, 4000)])
    off.observe(snapshot_of([[3000, 1000, 0, 0]] * 2, 4000))
    assert off.num_feedback == 1
    assert off.corrected(off.unknown_X) is off.unknown_X, (
        "without feedback loads are compared, and nothing else"
    )


def snapshot_of(before_LE, num_tokens):
    from dataclasses import replace

    from evenmoe.loads import LoadCounts

    plain = even_snapshot(SHAPE, num_tokens)
    total = LoadCounts.undropped(np.array(before_LE, dtype=np.int64), 1)
    return replace(plain, loads=replace(plain.loads, total=total))


def test_feedback_is_the_predictors_own(prior_path):
    """Over two comparisons it is `Feedback.update` with the sums of exactly those tokens."""
    prior = read_token_prior(prior_path)
    predictions, expected = Predictions(with_prior(prior_path), SHAPE, prior), Feedback(prior)
    code, book = (predictions.rate([one] * 9, 0, None) for one in (3, 1500))
    predictions.observe(even_snapshot(SHAPE, 0))
    for parts in ([(code, 9)], [(code, 1), (book, 9)], [(code, 1), (book, 1)]):
        predictions.handed_out(parts)
    predictions.observe(even_snapshot(SHAPE, 19))
    predictions.handed_out([(book, 1)])
    predictions.observe(even_snapshot(SHAPE, 22))
    for plain, tokens, before, after in ((10 * code + 9 * book, 19, 0, 19), (code + 2 * book, 3, 19, 22)):
        seen = [even_snapshot(SHAPE, one).loads.total.before_LE for one in (before, after)]
        expected.update(plain.reshape(2, 4).astype(float), seen[1] - seen[0], tokens)
    assert predictions.num_feedback == 2
    wanted = expected.correct(code.reshape(2, 4).astype(float)) if expected.trusted else expected.mean_LE
    assert np.allclose(predictions.corrected(code).reshape(2, 4), wanted, rtol=1e-5)
    errors = predictions.error
    assert errors["plain"] == pytest.approx(1 - expected.cosines["predicted"], rel=1e-5)
    assert set(errors) == {"plain", "corrected", "mean"}


def test_another_cached_prefix_is_another_prediction(prior_path):
    prior = read_token_prior(prior_path)
    admission = Admission(with_prior(prior_path, strategy="peak_excess"), most_of_one=50)
    ids = [3] * 30 + [1500] * 30
    admission.submit("a", ids)
    for cached in (0, 30, 0, 55):
        admission.cached("a", cached)
        left = ids[cached:]
        assert admission.tokens("a") == min(len(left), 50)
        expected = prior.predict(left) / len(left) * min(len(left), 50)
        assert np.allclose(admission._loads.first_step("a"), expected.reshape(-1), rtol=1e-5)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 120))
def test_the_ledger_sums_what_was_handed_out_since_the_last_comparison(data, num_steps):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rates = [rng.random(3).astype(np.float32) for _ in range(4)]
    start = data.draw(st.integers(0, 5))
    ledger, slow, settled = Ledger(3, start=start), [(start, np.zeros(3))], start
    for _ in range(num_steps):
        parts = [(rates[int(rng.integers(4))], int(rng.integers(0, 5))) for _ in range(rng.integers(0, 4))]
        ledger.record(parts)
        total = slow[-1][1] + sum((rate.astype(float) * tokens for rate, tokens in parts), np.zeros(3))
        slow.append((slow[-1][0] + sum(tokens for _, tokens in parts), total))
        if rng.random() < 0.2:
            end, total = slow[int(rng.integers(len(slow)))]
            if end < settled:
                continue
            before = dict(slow)[settled]
            predicted, tokens = ledger.settle(end)
            assert tokens == end - settled
            assert np.allclose(predicted, dict(slow)[end] - before)
            settled = end
    ends = {end for end, _ in slow}
    missing = next(number for number in range(settled, settled + 1000) if number not in ends)
    assert ledger.settle(missing) is None


def test_a_ledger_that_nobody_asks_stays_small_and_forgets_only_old_ends():
    ledger, rate = Ledger(1), np.ones(1, dtype=np.float32)
    for _ in range(5 * MOST_STEPS):
        ledger.record([(rate, 2)])
    assert len(ledger._steps) <= MOST_STEPS
    assert ledger.settle(2) is None, "too long ago"
    end = 2 * 5 * MOST_STEPS
    predicted, tokens = ledger.settle(end - 2 * (MOST_STEPS // 2 - 1))
    assert predicted.tolist() == [tokens]
    predicted, tokens = ledger.settle(end)
    assert predicted.tolist() == [tokens] == [2 * (MOST_STEPS // 2 - 1)]


def test_a_prior_for_another_model_is_named(prior_path):
    config = with_prior(prior_path)
    with pytest.raises(
        ConfigError, match=r"scheduling\.prior = .*it has 3 MoE layers of 4 experts, top-1, not 2"
    ):
        Admission(config, shape=Shape(num_layers=3, num_experts=4, top_k=1), most_of_one=9)
    admission = Admission(config, most_of_one=9)
    with pytest.raises(
        ConfigError, match=r"scheduling\.prior = .*top-2, not 2 MoE layers of 4 experts, top-1"
    ):
        admission.observe(even_snapshot(Shape(num_layers=2, num_experts=4, top_k=2), 0))
    with pytest.raises(FileNotFoundError):
        Admission(with_prior(prior_path.replace("prior.npz", "none.npz")), most_of_one=9)


def test_a_prior_that_is_none_is_named(tmp_path):
    path = tmp_path / "prior.npz"
    path.write_bytes(b"no prior")
    with pytest.raises(FileFormatError, match=r"prior\.npz"):
        Admission(with_prior(str(path)), most_of_one=9)


@settings(max_examples=50)
@given(st.data())
def test_the_table_of_rates_is_their_sum(data):
    table, slow = RateTable(3), {}
    for _ in range(data.draw(st.integers(0, 60))):
        key = data.draw(st.integers(0, 30))
        if data.draw(st.booleans()):
            slow[key] = np.array(
                data.draw(st.lists(st.integers(0, 9), min_size=3, max_size=3)), dtype=np.float32
            )
            table.put(key, slow[key])
        else:
            slow.pop(key, None)
            table.drop(key)
    assert len(table) == len(slow)
    parts = [(key, tokens) for key in range(31) for tokens in (key, 2)]
    expected = sum((slow[key] * tokens for key, tokens in parts if key in slow), np.zeros(3))
    assert np.array_equal(table.load(parts), expected)


def test_the_view_of_devices_is_the_placements(tmp_path):
    from evenmoe.placement import Placement, write_placement

    placement = Placement.of([[0, 1, 0, [0, 1]], [1, 1, 0, 0]], 2)
    path = write_placement(placement, tmp_path / "placement.json")
    load = np.arange(8.0)
    view = View(SHAPE, RoutingConfig(num_devices=2, placement=str(path)))
    by_hand = [0 + 2 + 1.5, 1 + 1.5, 6 + 7, 4 + 5]
    assert view(load).tolist() == by_hand
    assert view.length == 4
    assert View(SHAPE, RoutingConfig())(load) is load
    assert View(SHAPE, RoutingConfig(num_devices=3))(load).tolist() == [1, 2, 3, 9, 6, 7]
    with pytest.raises(ConfigError, match="num_devices = 5"):
        View(SHAPE, RoutingConfig(num_devices=5))
    with pytest.raises(ConfigError, match="num_devices = 3"):
        View(SHAPE, RoutingConfig(num_devices=3, placement=str(path)))
