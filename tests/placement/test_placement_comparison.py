"""Comparing methods: the held-out factor is of placements that never saw the domain, and it decides."""

import numpy as np
import pytest

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.placement import Placement, comparison
from evenmoe.placement.comparison import (
    MAX_FOLDS,
    compare_methods,
    held_out_folds,
    recommend,
    straggler_factors,
)
from evenmoe.placement.domain_loads import DomainLoads, noisy_scenarios
from evenmoe.placement.methods import METHODS, FitSettings, fit_placement
from tests.placement.placement_cases import domain_loads, expert_loads, misleading_counts, random_loads

SETTINGS = FitSettings(num_devices=4, replicas=4)


@pytest.fixture
def domains():
    return domain_loads(random_loads(0, 4, 16), random_loads(1, 4, 16))


def test_the_factor_by_hand():
    placement = Placement.of([[0, 0, 1, 1], [0, 1, 0, 1]], 2)
    domains = domain_loads([[8, 2, 2, 4], [1, 1, 1, 1]], [[8, 2, 2, 4], [0, 0, 0, 0]])
    # layer 0: 10 and 6, mean 8; layer 1: 10 and 6 again; an unused layer is even
    assert straggler_factors(placement, domains).tolist() == [[1.25, 1.25], [1.0, 1.0]]
    with pytest.raises(ShapeError):
        straggler_factors(Placement.of([0, 1, 1], 2), domains)


def test_no_fit_of_a_held_out_factor_saw_the_domain(domains, monkeypatch):
    seen = []

    def spy(fitted_to, method, settings):
        seen.append(fitted_to.tags)
        return fit_placement(fitted_to, method, settings)

    monkeypatch.setattr(comparison, "fit_placement", spy)
    compare_methods(domains, ["vector"], SETTINGS)
    assert seen[0] == domains.tags, "the placement that is written is fitted to everything"
    assert [set(domains.tags) - set(tags) for tags in seen[1:]] == [{tag} for tag in domains.tags]


@pytest.mark.parametrize("method", ["load_balanced", "replicated"])
def test_held_out_factors_are_those_of_fits_without_the_domain(domains, method):
    result = compare_methods(domains, [method], SETTINGS)[0]
    for left_out, tag in enumerate(domains.tags):
        others = domains.only([index for index in range(4) if index != left_out])
        placement = fit_placement(others, method, SETTINGS)
        factor = straggler_factors(placement, domains.only([left_out])).mean()
        assert result.heldout_by_domain[tag] == pytest.approx(factor)
    assert result.heldout_straggler_factor == pytest.approx(np.mean(list(result.heldout_by_domain.values())))


def test_vector_gains_on_what_it_saw_and_less_on_what_it_did_not(domains):
    result = compare_methods(domains, ["vector"], SETTINGS)[0]
    assert result.fitted_straggler_factor + 0.1 < result.heldout_straggler_factor


def test_what_is_not_fitted_is_the_same_held_out(domains):
    for result in compare_methods(domains, ["contiguous", "round_robin"], SETTINGS):
        assert result.heldout_by_domain == pytest.approx(result.fitted_by_domain)


def test_the_held_out_factor_decides(domains):
    results = {result.method: result for result in compare_methods(domains, METHODS, SETTINGS)}
    ranked = sorted(results.values(), key=lambda result: result.heldout_straggler_factor)
    assert recommend(list(results.values()), with_copies=True) is ranked[0]
    plain = [result for result in ranked if not result.placement.is_replicated]
    assert recommend(list(results.values()), with_copies=False) is plain[0]


def test_vector_is_not_recommended_where_it_fails_on_unseen_domains():
    domains = domain_loads(misleading_counts())
    results = compare_methods(domains, ["contiguous", "load_balanced", "vector"], SETTINGS)
    fitted = [result.fitted_straggler_factor for result in results]
    assert min(fitted) == fitted[2], "it looks best on what it saw"
    assert recommend(results, with_copies=True).method != "vector"


def test_one_domain_has_no_held_out_factor():
    results = compare_methods(domain_loads(random_loads(0, 1, 16)), METHODS, SETTINGS)
    assert all(result.heldout_straggler_factor is None for result in results)
    assert all(result.heldout_by_domain is None for result in results)
    best = recommend(results, with_copies=True)
    assert best.fitted_straggler_factor == min(result.fitted_straggler_factor for result in results)


@pytest.mark.parametrize("num_domains", [1, 2, 5, MAX_FOLDS, MAX_FOLDS + 1, 100])
def test_each_domain_is_held_out_once(num_domains):
    folds = held_out_folds(num_domains)
    assert len(folds) == (0 if num_domains == 1 else min(num_domains, MAX_FOLDS))
    if folds:
        assert sorted(domain for fold in folds for domain in fold) == list(range(num_domains))


def test_progress_counts_every_fit(domains):
    calls = []
    compare_methods(domains, ["contiguous", "vector"], SETTINGS, on_progress=lambda *call: calls.append(call))
    assert calls == [(done, 10) for done in range(1, 11)]


def test_domain_loads_are_scaled_by_domain_and_cut_to_the_layer():
    counts = [[[30, 10, 20, 0], [5, 5, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]]
    domains = DomainLoads.of(expert_loads(counts, tags=["a", "b"], num_experts_L=[4, 2]))
    assert domains.tags == ("a", "b")
    assert domains.num_experts_L == (4, 2)
    assert domains.load_LGE[0].tolist() == [[2.0, 2 / 3, 4 / 3, 0.0], [1.0, 1.0, 1.0, 1.0]]
    assert domains.load_LGE[1].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert domains.only([1]).tags == ("b",)
    with pytest.raises(ConfigError, match="tags of the loads"):
        DomainLoads.of(expert_loads(np.zeros((0, 2, 4), dtype=np.int64), tags=[]))


def test_scenarios_keep_the_domains_and_stray_by_the_noise():
    load_GE = random_loads(0, 3, 64)
    rng = np.random.default_rng(0)
    assert noisy_scenarios(load_GE, 100, 0.0, rng) is not load_GE
    np.testing.assert_array_equal(noisy_scenarios(load_GE, 100, 0.0, rng), load_GE)
    scenarios = noisy_scenarios(load_GE, 100, 0.4, rng)
    assert scenarios.shape == (100, 64)
    np.testing.assert_array_equal(scenarios[:3], load_GE)
    np.testing.assert_allclose(scenarios.mean(-1), 1.0)
    stray = np.log(scenarios[3:] / load_GE[np.arange(97) % 3])
    assert stray.std() == pytest.approx(0.4, abs=0.05)
    assert noisy_scenarios(load_GE, 1, 0.4, rng).shape == (6, 64), "at least one copy of each"
