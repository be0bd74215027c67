"""Load sources: topics as recorded, drawn or predicted from prompts; a request's load is around its topic's."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import ExpertLoads, LoadCounts, peak_to_mean, read_loads
from evenmoe.simulation.workloads.load_noise import LoadNoise
from evenmoe.simulation.workloads.load_sources import DomainLoadsSource, PromptLoads, SyntheticTopics

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "expert_loads"
recorded = pytest.mark.skipif(not RECORDED.exists(), reason="the recorded loads are not here")
QUIET = LoadNoise(request=0, alike_tokens=0)


def drawn(source, topic, number, tokens=400, seed=0):
    tokens_N = None if tokens is None else np.full(number, tokens)
    return source.draw(np.full(number, topic), tokens_N, np.random.default_rng(seed))


def loads_of(counts, top_k=2, num_experts=None) -> ExpertLoads:
    by_tag = {tag: LoadCounts.undropped(np.array(rows), top_k) for tag, rows in counts.items()}
    num_layers = len(next(iter(counts.values())))
    return ExpertLoads(
        layers=tuple(f"layer {index}" for index in range(num_layers)),
        num_experts_L=np.array(num_experts or [4] * num_layers),
        top_k=top_k,
        total=LoadCounts.undropped(np.sum([counts.before_LE for counts in by_tag.values()], axis=0), top_k),
        by_tag=by_tag,
    )


class TablePredictor:
    """Each token id always uses the same two of four experts."""

    num_layers, num_experts, top_k = 1, 4, 2

    def predict(self, ids_T):
        pairs = np.zeros((1, 4))
        for token in ids_T:
            pairs[0, token % 4] += 1
            pairs[0, (token + 1) % 4] += 1
        return pairs


# Synthetic topics -----------------------------------------------------------------------------------------------------


def test_synthetic_topics_are_what_they_are_described_as():
    source = SyntheticTopics(num_topics=5, num_experts=12, top_k=3, num_layers=2, noise=QUIET)
    assert source.topics == ("topic-0", "topic-1", "topic-2", "topic-3", "topic-4")
    assert (source.num_layers, source.num_experts, source.top_k, source.has_lengths) == (2, 12, 3, False)
    assert source.expected_GLE.shape == (5, 2, 12)
    np.testing.assert_allclose(source.expected_GLE.sum(-1), 3)
    load = drawn(source, 4, 2)
    np.testing.assert_array_equal(load.load_NX[1], source.expected_GLE[4].ravel())
    assert load.predicted_NX is load.load_NX


def test_profiles_are_of_their_own_seed():
    first, again = SyntheticTopics(), SyntheticTopics()
    other = SyntheticTopics(profile_seed=1)
    np.testing.assert_array_equal(first.expected_GLE, again.expected_GLE)
    assert not np.array_equal(first.expected_GLE, other.expected_GLE)
    assert first == again


def test_a_lower_concentration_is_a_higher_peak():
    peaks = [
        peak_to_mean(SyntheticTopics(num_topics=40, concentration=value).expected_GLE).mean()
        for value in (0.001, 0.1, 0.3, 1.0, 10.0, 1e6)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(15, rel=0.01), "experts that every token of the topic uses: 60 / 4"
    assert peaks[-1] == pytest.approx(1, abs=0.01)


def test_a_vanishing_concentration_still_gives_every_token_its_experts():
    pairs = SyntheticTopics(concentration=1e-6, num_topics=3, num_experts=8, top_k=4).expected_GLE
    np.testing.assert_allclose(pairs.sum(-1), 4)
    assert pairs.max() == 1


def test_requests_of_a_topic_are_around_its_profile():
    source = SyntheticTopics(num_topics=3, noise=LoadNoise(request=0.2))
    mean_X = drawn(source, 1, 20_000, tokens=2000).load_NX.mean(0)
    np.testing.assert_allclose(mean_X, source.expected_GLE[1].ravel(), rtol=0.03, atol=3e-3)


# Recorded domains -----------------------------------------------------------------------------------------------------


def test_domains_by_hand():
    loads = loads_of({"code": [[6, 2, 0, 0], [2, 2, 2, 2]], "news": [[0, 1, 1, 2], [3, 3, 2, 0]]})
    source = DomainLoadsSource.of(loads, noise=QUIET)
    assert source.topics == ("code", "news")
    assert (source.num_layers, source.num_experts, source.top_k) == (2, 4, 2)
    assert drawn(source, 0, 1).load_NX[0].tolist() == [1, 1, 0, 0, 0.5, 0.5, 0.5, 0.5]
    assert drawn(source, 1, 1).load_NX[0].tolist() == [0, 0.5, 0.5, 1, 0.75, 0.75, 0.5, 0]
    assert DomainLoadsSource.of(loads, domains=["news"]).topics == ("news",)


def test_layers_of_fewer_experts_have_zeros():
    loads = loads_of({"code": [[1, 2, 3, 2], [1, 1, 2, 0]]}, num_experts=[4, 3])
    load = drawn(DomainLoadsSource.of(loads), 0, 50).load_NX.reshape(50, 2, 4)
    assert (load[:, 1, 3] == 0).all()
    np.testing.assert_allclose(load.sum(-1), 2)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: SyntheticTopics(num_topics=0), "num_topics"),
        (lambda: SyntheticTopics(top_k=61), "top_k"),
        (lambda: SyntheticTopics(top_k=1.5), "top_k"),
        (lambda: SyntheticTopics(concentration=0.0), "concentration"),
        (lambda: SyntheticTopics(profile_seed=-1), "profile_seed"),
        (lambda: drawn(SyntheticTopics(), 0, 2, tokens=None), "prompt_tokens"),
        (
            lambda: DomainLoadsSource.of(dataclasses.replace(loads_of({"a": [[1, 1, 1, 1]]}), by_tag={})),
            "tags of the loads",
        ),
        (lambda: DomainLoadsSource.of(loads_of({"a": [[1, 1, 1, 1]]}), domains=["b"]), "domains"),
        (lambda: DomainLoadsSource.of(loads_of({"a": [[1, 1, 1, 1]]}), domains=[]), "domains"),
        (lambda: DomainLoadsSource.of(loads_of({"a": [[4, 0, 0, 0]]})), "domains"),
        (lambda: PromptLoads.of(TablePredictor(), {}), "prompts"),
        (lambda: PromptLoads.of(TablePredictor(), {"code": []}), "prompts"),
        (lambda: PromptLoads.of(TablePredictor(), {"code": [[1], []]}), "prompts['code'][1]"),
        (lambda: PromptLoads.of(TablePredictor(), {"code": [[[1, 2]]]}), "prompts['code'][0]"),
    ],
)
def test_what_cannot_be_is_refused(make, field):
    with pytest.raises(ConfigError) as refused:
        make()
    assert refused.value.field == field


@recorded
def test_recorded_loads_keep_their_domains():
    olmoe = DomainLoadsSource.of(read_loads(RECORDED / "olmoe-1b-7b.json"))
    assert (olmoe.num_layers, olmoe.num_experts, olmoe.top_k) == (3, 64, 8)
    assert olmoe.topics == ("arxiv", "book", "c4", "github", "wikipedia")
    code = olmoe.topics.index("github")
    assert peak_to_mean(olmoe.expected_GLE[code, 1]) == pytest.approx(6.2, abs=0.05)
    mean_LE = drawn(olmoe, code, 3000).load_NX.mean(0).reshape(3, 64)
    assert peak_to_mean(mean_LE[1]) == pytest.approx(6.2, rel=0.04)


@recorded
def test_mixtrals_domains_look_alike():
    mixtral = DomainLoadsSource.of(read_loads(RECORDED / "mixtral-8x7b.json"), noise=QUIET)
    for layer in range(3):
        unit_GE = mixtral.expected_GLE[:, layer] / np.linalg.norm(
            mixtral.expected_GLE[:, layer], axis=-1, keepdims=True
        )
        assert (unit_GE @ unit_GE.T).min() > 0.965


# Prompts --------------------------------------------------------------------------------------------------------------


def test_prompts_by_hand():
    source = PromptLoads.of(
        TablePredictor(), {"one": [[0, 0, 1, 1]], "two": [[2], [2, 2, 3, 0, 0]]}, noise=QUIET
    )
    assert (source.topics, source.top_k, source.num_layers, source.num_experts) == (("one", "two"), 2, 1, 4)
    own = drawn(source, 0, 1, tokens=None)
    assert (own.load_NX[0].tolist(), own.prompt_tokens.tolist()) == ([0.5, 1, 0.5, 0], [4])
    given_lengths = drawn(source, 0, 1, tokens=77)
    assert given_lengths.prompt_tokens.tolist() == [77]
    many = drawn(source, 1, 4000, tokens=None)
    assert set(many.prompt_tokens.tolist()) == {1, 5}
    assert (many.prompt_tokens == 1).mean() == pytest.approx(0.5, abs=0.03)
    of_five = many.load_NX[many.prompt_tokens == 5]
    np.testing.assert_allclose(of_five, np.broadcast_to([0.6, 0.4, 0.4, 0.6], of_five.shape))


def test_the_truth_differs_from_what_the_prior_predicts():
    source = PromptLoads.of(TablePredictor(), {"one": [list(range(8))]})
    load = drawn(source, 0, 100)
    np.testing.assert_array_equal(load.predicted_NX, np.full((100, 4), 0.5))
    assert load.load_NX.std() > 0.05
    exact = PromptLoads.of(TablePredictor(), {"one": [list(range(8))]}, noise=LoadNoise())
    told = drawn(exact, 0, 100)
    assert told.predicted_NX is told.load_NX


def test_a_predictor_of_another_shape_or_of_nothing_is_refused():
    class Wide(TablePredictor):
        num_experts = 5

    class Nothing(TablePredictor):
        def predict(self, ids_T):
            return np.zeros((1, 4))

    with pytest.raises(ShapeError, match=r"prompts\['one'\]\[0\].*\(1, 4\).*\(1, 5\)"):
        PromptLoads.of(Wide(), {"one": [[1]]})
    with pytest.raises(ConfigError, match="at least 2 experts"):
        PromptLoads.of(Nothing(), {"one": [[1]]})


def test_a_token_prior_is_a_predictor_of_prompts():
    from evenmoe.scheduling.predictors.token_prior import TokenPrior

    table = {"layer": [0, 0, 0, 0], "expert": [0, 1, 2, 3], "token": [5, 5, 6, 6], "count": [9, 9, 9, 9]}
    prior = TokenPrior.from_token_tables(
        [{name: np.array(column) for name, column in table.items()}], num_experts=4, top_k=2
    )
    source = PromptLoads.of(prior, {"fives": [[5, 5, 5]], "sixes": [[6]]}, noise=QUIET)
    fives, sixes = (drawn(source, topic, 1).load_NX[0] for topic in (0, 1))
    assert fives[:2].sum() > 1.5 > 0.5 > fives[2:].sum()
    assert sixes[2:].sum() > 1.5
