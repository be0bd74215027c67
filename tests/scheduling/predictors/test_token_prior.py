"""The token prior: its counts, its prediction beside the oracle, what must hold for any of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors import (
    Calibration,
    TokenCounter,
    TokenCounts,
    TokenPrior,
    cosine,
    sum_counts,
)
from tests.oracles import predictors as oracle
from tests.scheduling.predictors.prediction_cases import count, runs

PROMPTS = st.lists(st.integers(0, 12), max_size=20)
SHRINKAGES = st.sampled_from([0.25, 0.5, 4.0])


def test_a_prior_worked_by_hand():
    counter = TokenCounter(1, 2, 1)
    counter.add_seen([7, 7, 7, 9])
    counter.add(0, [7, 7, 7, 9], [[1, 0], [1, 0], [0, 1], [0, 1]])
    prior = TokenPrior(counts=counter.counts(), shrinkage=1.0)
    # id 7 weighs 3/4, id 9 weighs 1/2, the mean (1/2, 1/2) weighs 1/2
    first = 2 * 3 / 4 * 2 / 3 + 1 / 2 * 0 + 1 / 2 * 1 / 2
    weight = 2 * 3 / 4 + 1 / 2 + 1 / 2
    assert prior.predict([7, 9, 7])[0] == pytest.approx([3 * first / weight, 3 * (1 - first / weight)])
    assert prior.predict([8, 8])[0] == pytest.approx([1.0, 1.0])
    assert prior.coverage([7, 8, 9, 10**6]) == 0.5
    assert prior.predict([]).tolist() == [[0.0, 0.0]]


@given(run=runs(), ids=PROMPTS, shrinkage=SHRINKAGES)
def test_prediction_is_the_oracles(run, ids, shrinkage):
    prompts, chosen, num_layers, num_experts, _ = run
    prior = TokenPrior(counts=count(*run), shrinkage=shrinkage)
    table = oracle.counted(prompts, chosen, num_layers, num_experts)
    np.testing.assert_allclose(prior.predict(ids), oracle.prior(table, ids, shrinkage), rtol=1e-5, atol=1e-6)


@given(run=runs(), ids=PROMPTS, shrinkage=SHRINKAGES, seed=st.integers(0, 99), calibrated=st.booleans())
def test_every_layer_sums_to_all_pairs_and_order_does_not_matter(run, ids, shrinkage, seed, calibrated):
    _, _, num_layers, num_experts, top_k = run
    rng = np.random.default_rng(seed)
    change_LEE = rng.normal(size=(num_layers, num_experts, num_experts)).astype(np.float32)
    prior = TokenPrior(
        counts=count(*run), shrinkage=shrinkage, calibration=Calibration(change_LEE) if calibrated else None
    )
    predicted_LE = prior.predict(ids)
    np.testing.assert_allclose(predicted_LE.sum(-1), top_k * len(ids), rtol=1e-5)
    assert (predicted_LE >= 0).all()
    np.testing.assert_array_equal(prior.predict(rng.permutation(np.array(ids, dtype=int))), predicted_LE)


@given(run=runs())
def test_what_was_recorded_alone_is_predicted_exactly_without_shrinkage(run):
    prompts, chosen, num_layers, num_experts, top_k = run
    ids, choices = prompts[0], chosen[0]
    counts = count([ids], [choices], num_layers, num_experts, top_k)
    np.testing.assert_allclose(
        TokenPrior(counts=counts, shrinkage=1e-9).predict(ids), counts.load_LE(), rtol=1e-5, atol=1e-6
    )


@given(run=runs(most_prompts=4))
def test_counts_of_parts_sum_to_counts_of_all(run):
    prompts, chosen, *sizes = run
    parts = [count([ids_T], [choices], *sizes) for ids_T, choices in zip(prompts, chosen, strict=True)]
    together, all_at_once = sum_counts(parts), count(*run)
    for name in ("ids_R", "seen_R", "cell_N", "count_N"):
        np.testing.assert_array_equal(getattr(together, name), getattr(all_at_once, name))
    assert together.num_tokens == sum(map(len, prompts))
    assert all_at_once.load_LE().sum() == all_at_once.dense().sum()
    np.testing.assert_array_equal(all_at_once.dense().sum(0), all_at_once.load_LE())


@given(run=runs())
def test_a_table_of_columns_gives_the_same_counts(run):
    counts = count(*run)
    row_N, place_N = np.divmod(counts.cell_N, counts.num_layers * counts.num_experts)
    table = {
        "layer": 7 * (place_N // counts.num_experts),
        "expert": place_N % counts.num_experts,
        "token": counts.ids_R[row_N],
        "count": counts.count_N,
    }
    again = TokenCounts.of_table(table, num_experts=counts.num_experts, top_k=counts.top_k)
    for name in ("ids_R", "seen_R", "cell_N", "count_N"):
        np.testing.assert_array_equal(getattr(again, name), getattr(counts, name))
    prior = TokenPrior.from_token_tables([table, table], num_experts=counts.num_experts, top_k=counts.top_k)
    assert prior.counts.num_tokens == 2 * counts.num_tokens


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([[1, 2]], ShapeError),
        ([0.5], ConfigError),
        ([-1], ConfigError),
        (["a"], ConfigError),
        (3, ShapeError),
    ],
)
def test_what_is_no_prompt_is_refused(ids, error):
    counter = TokenCounter(1, 2, 1)
    counter.add_pairs(np.array([0]), np.array([1]), np.array([5]), np.array([3]))
    with pytest.raises(error):
        TokenPrior(counts=counter.counts()).predict(ids)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer": [0, 0], "expert": [0, 2], "token": [1, 1], "count": [1, 1]}, "expert"),
        ({"layer": [0], "expert": [0], "token": [-1], "count": [1]}, "token id"),
        ({"layer": [0], "expert": [0], "token": [1 << 40], "count": [1]}, "token id"),
        ({"layer": [0], "expert": [0], "token": [1], "count": [0]}, "count"),
        ({"layer": [0], "expert": [0], "token": [1.5], "count": [1]}, "token"),
        ({"layer": [0], "expert": [0], "token": [1]}, "columns"),
        ({"layer": [], "expert": [], "token": [], "count": []}, "layer"),
    ],
)
def test_tables_that_are_none_are_refused_by_name(change, field):
    with pytest.raises(ConfigError) as raised:
        TokenCounts.of_table(change, num_experts=2, top_k=1)
    assert raised.value.field == field


def test_parts_of_different_models_and_of_none_are_refused():
    one, other = TokenCounter(1, 2, 1), TokenCounter(1, 3, 1)
    for counter in (one, other):
        counter.add_seen([1])
        counter.add(0, [1], [[True, False]])
    with pytest.raises(ShapeError):
        TokenPrior.of_counts([one.counts(), other.counts()])
    with pytest.raises(ConfigError):
        TokenPrior.of_counts([])
    with pytest.raises(ConfigError):
        TokenPrior(counts=one.counts(), shrinkage=0.0)
    with pytest.raises(ShapeError):
        TokenPrior(counts=one.counts(), calibration=Calibration(np.zeros((1, 3, 3), dtype=np.float32)))


def test_a_mean_without_tokens_of_its_own_is_as_good_as_a_guess():
    """A null test: where experts do not depend on the token, the prior is the mean."""
    rng = np.random.default_rng(0)
    counter = TokenCounter(2, 4, 1)
    ids_T = rng.integers(0, 5, 20000)
    counter.add_seen(ids_T)
    for layer in range(2):
        counter.add(layer, ids_T, np.eye(4, dtype=bool)[rng.choice(4, 20000, p=[0.4, 0.3, 0.2, 0.1])])
    prior = TokenPrior(counts=counter.counts())
    assert (cosine(prior.predict([0, 1, 4, 4]), prior.mean_LE) > 0.999).all()
