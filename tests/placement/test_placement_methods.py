"""The placement methods: what every placement must be, what each method must reach, and the null test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.placement.comparison import straggler_factors
from evenmoe.placement.copies import Copies
from evenmoe.placement.methods import METHODS, WITH_COPIES, FitSettings, fit_placement
from evenmoe.placement.packing import least_loaded, pack
from evenmoe.placement.swaps import improve, soft_peak, soft_peak_if_added
from tests.oracles import placement as slow
from tests.placement.placement_cases import domain_loads, fits, random_loads, recorded

FITTED = ("load_balanced", "vector", "replicated", "vector_replicated")


def fit(load_GE, method, num_devices, **options):
    return fit_placement(domain_loads(load_GE), method, FitSettings(num_devices=num_devices, **options))


def factor(placement, load_GE):
    return float(straggler_factors(placement, domain_loads(load_GE)).mean())


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25)
@given(case=fits())
def test_every_expert_is_placed_and_devices_hold_even_numbers(method, case):
    load_GE, num_devices, replicas = case
    placement = fit(load_GE, method, num_devices, replicas=replicas)
    copies = replicas if method in WITH_COPIES else 0
    assert placement.num_experts(0) == load_GE.shape[1]
    assert placement.num_copies(0) == load_GE.shape[1] + copies
    held_D = placement.holds(0).sum(-1)
    assert held_D.max() - held_D.min() <= 1
    assert placement == fit(load_GE, method, num_devices, replicas=replicas), "same seed, same placement"


def test_by_hand():
    load_GE = [[5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 2.0]]
    assert fit(load_GE, "contiguous", 3).holders_LE[0] == tuple((d,) for d in (0, 0, 0, 1, 1, 1, 2, 2))
    assert fit(load_GE, "round_robin", 3).holders_LE[0] == tuple((d,) for d in (0, 1, 2, 0, 1, 2, 0, 1))
    balanced = fit(load_GE, "load_balanced", 2)
    assert balanced.device_load(load_GE[0], 0).tolist() == [8.0, 8.0]
    # the two redundant copies go to 5 and then to 4; loads per copy 2.5 2.5 2 2 2 1 1 1 1 1
    replicated = fit(load_GE, "replicated", 2, replicas=2)
    assert [len(holders) for holders in replicated.holders_LE[0]] == [2, 1, 1, 1, 1, 1, 2, 1]


def test_domains_that_only_look_even_together_are_evened_apart():
    load_GE = np.repeat(np.array([[2.0, 0.0], [0.0, 2.0]]), 4, axis=1)  # each domain uses half of the experts
    assert factor(fit(load_GE, "contiguous", 4), load_GE) == 2.0
    assert factor(fit(load_GE, "vector", 4), load_GE) == pytest.approx(1.0)


@given(st.integers(0, 99), st.sampled_from([2, 4]))  # sums over 3 equal rows would round
@settings(max_examples=25)
def test_null_identical_domains_give_the_load_balanced_placement(seed, num_domains):
    load_GE = np.repeat(random_loads(seed, 1, 16), num_domains, axis=0)
    assert fit(load_GE, "vector", 4, noise=0.0).holders_LE == fit(load_GE, "load_balanced", 4).holders_LE


@given(fits())
@settings(max_examples=15)
def test_a_busier_domain_counts_no_more(case):
    load_GE, num_devices, _ = case
    busier_GE = load_GE.copy()
    busier_GE[0] *= 4.0
    for method in ("load_balanced", "vector"):
        assert fit(busier_GE, method, num_devices) == fit(load_GE, method, num_devices)
    placement = fit(load_GE, "vector", num_devices)
    assert factor(placement, busier_GE) == pytest.approx(factor(placement, load_GE))


@given(st.integers(0, 999), st.data())
@settings(max_examples=25)
def test_names_of_experts_do_not_matter_to_replicated(seed, data):
    load_GE = random_loads(seed, 3, 12)
    order = data.draw(st.permutations(range(12)))
    plain = fit(load_GE, "replicated", 4, replicas=4).holders_LE[0]
    renamed = fit(load_GE[:, order], "replicated", 4, replicas=4).holders_LE[0]
    assert renamed == tuple(plain[expert] for expert in order)


@given(fits())
@settings(max_examples=40)
def test_the_search_never_ends_worse_than_it_started_and_counts_right(case):
    load_GE, num_devices, _ = case
    load_GE = load_GE[load_GE.sum(-1) > 0]
    if not load_GE.size:
        return
    copies = Copies.of(load_GE, np.ones(load_GE.shape[1], dtype=np.int64), num_devices)
    start_M = pack(copies, soft_peak_if_added)
    end_M = improve(copies, start_M)
    start, end = (soft_peak(copies.device_load(device_M)) for device_M in (start_M, end_M))
    assert end <= start
    assert end == pytest.approx(slow.soft_peak(load_GE, copies.holders(end_M), num_devices))


@given(fits())
@settings(max_examples=40)
def test_the_straggler_factor_is_the_slow_one(case):
    load_GE, num_devices, replicas = case
    load_GE = load_GE[load_GE.sum(-1) > 0]
    if load_GE.size:
        placement = fit(load_GE, "replicated", num_devices, replicas=replicas)
        expected = slow.straggler_factor(load_GE, placement.holders_LE[0], num_devices)
        assert factor(placement, load_GE) == pytest.approx(expected)


@given(fits(), st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4))
@settings(max_examples=25)
def test_a_mix_of_domains_is_no_worse_than_its_domains(case, weights):
    load_GE, num_devices, _ = case
    placement = fit(load_GE, "vector", num_devices)
    weight_G = np.array(weights[: len(load_GE)]) / sum(weights[: len(load_GE)])
    peaks_G = placement.device_load(load_GE, 0).max(-1)
    assert placement.device_load(weight_G @ load_GE, 0).max() <= weight_G @ peaks_G + 1e-9


def test_greedy_on_one_scenario_is_longest_processing_time():
    load_GE = random_loads(3, 1, 24)
    copies = Copies.of(load_GE, np.ones(24, dtype=np.int64), 4)
    np.testing.assert_array_equal(pack(copies, soft_peak_if_added), pack(copies, least_loaded))


@pytest.mark.slow
@pytest.mark.parametrize(("num_experts", "num_devices"), [(6, 2), (6, 3), (8, 2), (7, 3)])
def test_vector_is_near_the_best_of_all_placements(num_experts, num_devices):
    ratios = []
    for seed in range(12):
        load_GE = random_loads(seed, 3, num_experts)
        best = slow.best_factor(load_GE.tolist(), num_devices)
        ratios.append(factor(fit(load_GE, "vector", num_devices, noise=0.0), load_GE) / best)
    assert min(ratios) >= 1.0 - 1e-9
    assert np.mean(ratios) < 1.02
    assert max(ratios) < 1.10


def test_noise_spreads_what_one_domain_cannot_tell_apart():
    load_GE = random_loads(0, 2, 16)
    placements = {fit(load_GE, "vector", 4, noise=0.5, seed=seed) for seed in range(4)}
    assert len(placements) > 1, "the seed acts"
    assert len({fit(load_GE, "vector", 4, noise=0.0, seed=seed) for seed in range(4)}) == 1


@pytest.mark.parametrize("method", METHODS)
def test_layers_may_differ_in_experts(method):
    domains = domain_loads(random_loads(0, 2, 8), random_loads(1, 2, 13))
    placement = fit_placement(domains, method, FitSettings(num_devices=4, replicas=3))
    assert [placement.num_experts(layer) for layer in range(2)] == [8, 13]


def test_real_loads_gain_and_alike_domains_do_not():
    olmoe, mixtral = recorded("olmoe-1b-7b"), recorded("mixtral-8x7b")

    def mean_factor(domains, method, num_devices):
        placement = fit_placement(domains, method, FitSettings(num_devices=num_devices, replicas=8))
        return straggler_factors(placement, domains).mean()

    assert mean_factor(olmoe, "contiguous", 8) == pytest.approx(1.493, abs=0.001)
    assert mean_factor(olmoe, "vector", 8) < 1.15 < 1.35 < mean_factor(olmoe, "load_balanced", 8)
    assert mean_factor(olmoe, "vector_replicated", 8) < mean_factor(olmoe, "replicated", 8)
    assert abs(mean_factor(mixtral, "vector", 4) - mean_factor(mixtral, "load_balanced", 4)) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_devices": 1}, "at least 2"),
        ({"num_devices": 4, "replicas": -1}, "at least 0"),
        ({"num_devices": 4, "noise": -0.1}, "from 0 to 3"),
        ({"num_devices": 4, "noise": float("nan")}, "from 0 to 3"),
        ({"num_devices": 4, "seed": -1}, "at least 0"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FitSettings(**options)


@pytest.mark.parametrize("method", METHODS)
def test_more_devices_than_experts_are_refused(method):
    with pytest.raises(ConfigError, match=r"num_devices = 9 .* at most the 8 experts of layer '0'"):
        fit(random_loads(0, 2, 8), method, 9, replicas=1)


@pytest.mark.parametrize("method", WITH_COPIES)
def test_replicas_that_cannot_act_or_do_not_fit_are_refused(method):
    with pytest.raises(ConfigError, match=r"replicas = 0 .* at least 1"):
        fit(random_loads(0, 2, 8), method, 4)
    with pytest.raises(ConfigError, match=r"replicas = 25 .* from 0 to 24"):
        fit(random_loads(0, 2, 8), method, 4, replicas=25)
    everywhere = fit(random_loads(0, 2, 8), method, 4, replicas=24)
    assert everywhere.holds(0).all()


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError, match="contiguous, round_robin, load_balanced, vector"):
        fit(random_loads(0, 2, 8), "greedy", 4)
