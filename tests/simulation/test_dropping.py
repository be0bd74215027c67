"""What policies leave, told from counts: beside the policies themselves on tokens."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.placement import Placement
from evenmoe.routing import RoutingContext, make_policy
from evenmoe.simulation import DROP_POLICIES, Dropping
from evenmoe.simulation.dropping import Dropper

GAMMAS = [0.5, 1.0, 1.1, 1.5, 3.0, math.inf]


@st.composite
def layers(draw, replicated=False):
    """(scores_TE, chosen_TE, device_of_token_T, placement, K) of one skewed layer."""
    num_devices, per_device = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    num_experts = num_devices * per_device
    top_k = draw(st.integers(1, min(3, num_experts)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    device_T = np.sort(rng.integers(num_devices, size=draw(st.integers(1, 60))))
    scores_TE = rng.random((len(device_T), num_experts)) + draw(st.sampled_from([0.0, 2.0])) * rng.random(
        num_experts
    )
    chosen_TE = np.zeros(scores_TE.shape, dtype=bool)
    np.put_along_axis(chosen_TE, np.argsort(-scores_TE, axis=1)[:, :top_k], True, axis=1)
    rows = [int(device) for device in rng.permutation(np.repeat(np.arange(num_devices), per_device))]
    return scores_TE, chosen_TE, device_T, Placement.of([rows], num_devices), top_k


def by_source(mask_TE, device_T, num_devices):
    """[1, 1, D, E]: pairs by source device and expert."""
    return np.stack([mask_TE[device_T == device].sum(0) for device in range(num_devices)])[None, None]


def both(layer, **settings):
    """(what counts say, the pairs that the policy itself keeps, top-k pairs among them, the load before)."""
    scores_TE, chosen_TE, device_T, placement, top_k = layer
    num_devices = placement.num_devices
    context = RoutingContext(
        num_devices=num_devices,
        device_of_token_T=torch.from_numpy(device_T),
        device_of_expert_E=torch.from_numpy(placement.device_of_expert(0)),
    )
    options = dict(settings)
    policy = make_policy(options.pop("policy"), **options)
    kept_TE = policy.keep(torch.from_numpy(scores_TE), torch.from_numpy(chosen_TE), context).numpy()
    load_SLDE = by_source(chosen_TE, device_T, num_devices).astype(np.float64)
    dropper = Dropper(Dropping(**settings), placement.holds(0)[None], top_k)
    tokens_SD = np.bincount(device_T, minlength=num_devices)[None]
    found = dropper.keep(load_SLDE, tokens_SD)
    return found, by_source(kept_TE, device_T, num_devices), int((kept_TE & chosen_TE).sum()), load_SLDE


@settings(max_examples=60)
@given(layers(), st.sampled_from(GAMMAS))
def test_token_drop_by_source_and_expert_is_exact(layer, gamma):
    found, kept_SLDE, num_kept, _ = both(layer, policy="token_drop", gamma=gamma)
    np.testing.assert_allclose(found.run_SLDE, kept_SLDE, atol=1e-9)
    assert found.kept_SL.item() == pytest.approx(num_kept)


@settings(max_examples=60)
@given(
    layers(),
    st.sampled_from(GAMMAS),
    st.sampled_from(["local", "global"]),
    st.sampled_from(["expert", "device"]),
)
def test_token_drop_keeps_as_much_in_every_bin_as_the_policy(layer, gamma, scope, level):
    found, kept_SLDE, num_kept, _ = both(layer, policy="token_drop", gamma=gamma, scope=scope, level=level)
    assert found.kept_SL.item() == pytest.approx(num_kept)
    holds_DE = layer[3].holds(0)
    run_DE, kept_DE = found.run_SLDE[0, 0], kept_SLDE[0, 0]
    if scope == "global":
        run_DE, kept_DE = run_DE.sum(0), kept_DE.sum(0)
    if level == "device":
        run_DE, kept_DE = run_DE @ holds_DE.T, kept_DE @ holds_DE.T
    np.testing.assert_allclose(run_DE, kept_DE, atol=1e-9)


@settings(max_examples=60)
@given(layers(), st.sampled_from(GAMMAS[:-1]))
def test_expanded_drop_runs_as_much_by_source_and_expert_and_keeps_at_least_as_many_top_k(layer, gamma):
    found, kept_SLDE, num_kept, _ = both(layer, policy="expanded_drop", gamma=gamma)
    np.testing.assert_allclose(found.run_SLDE, kept_SLDE, atol=1e-9)
    assert found.kept_SL.item() >= num_kept - 1e-9


@settings(max_examples=80)
@given(
    layers(),
    st.sampled_from(GAMMAS),
    st.sampled_from(["local", "global"]),
    st.sampled_from(["expert", "device"]),
)
def test_fill_is_an_upper_bound_that_keeps_what_token_drop_keeps(layer, gamma, scope, level):
    settings = {"gamma": gamma, "scope": scope, "level": level}
    found, kept_SLDE, num_kept, load_SLDE = both(layer, policy="fill", **settings)
    dropped, *_ = both(layer, policy="token_drop", **settings)
    np.testing.assert_allclose(found.kept_SL, dropped.kept_SL)
    assert found.kept_SL.item() == pytest.approx(num_kept)
    assert (found.run_SLDE >= dropped.run_SLDE - 1e-9).all()
    assert found.run_SLDE.sum() <= load_SLDE.sum() + 1e-9
    if scope == "local":
        assert kept_SLDE.sum() - 1e-9 <= found.run_SLDE.sum()
    lost_D = (load_SLDE - dropped.run_SLDE)[0, 0].sum(-1)
    substitutes_D = (found.run_SLDE - dropped.run_SLDE)[0, 0].sum(-1)
    assert (substitutes_D <= lost_D + 1e-9).all(), "no device gives more substitutes than its tokens lost"


def test_how_near_the_bounds_are():
    """What `docs/simulation.md` says of a layer of 64 experts, top-8, 8 devices of 128 tokens, gamma 1 to 2."""
    rng = np.random.default_rng(0)
    scores_TE = rng.gumbel(size=(1024, 64)) + rng.normal(size=64)
    chosen_TE = np.zeros(scores_TE.shape, dtype=bool)
    np.put_along_axis(chosen_TE, np.argsort(-scores_TE, axis=1)[:, :8], True, axis=1)
    layer = (
        scores_TE,
        chosen_TE,
        np.repeat(np.arange(8), 128),
        Placement.of([np.repeat(np.arange(8), 8)], 8),
        8,
    )
    for gamma in (1.0, 1.5, 2.0):
        fill, filled_SLDE, *_ = both(layer, policy="fill", gamma=gamma)
        assert filled_SLDE.sum() <= fill.run_SLDE.sum() <= 1.01 * filled_SLDE.sum()
        expanded, _, num_kept, _ = both(layer, policy="expanded_drop", gamma=gamma)
        assert num_kept <= expanded.kept_SL.item() <= 1.01 * num_kept


def test_by_hand():
    """Two devices of two experts; 4 tokens of device 0 choose experts 0 and 1, 4 of device 1 choose 0 and 2. C = 2."""
    load = np.array([[[[4.0, 4.0, 0.0, 0.0], [4.0, 0.0, 4.0, 0.0]]]])
    holds_LDE = np.array([[[True, True, False, False], [False, False, True, True]]])
    tokens_SD = np.array([[4, 4]])

    def keep(policy, **settings):
        found = Dropper(Dropping(policy=policy, gamma=1.0, **settings), holds_LDE, 2).keep(load, tokens_SD)
        return found.run_SLDE[0, 0].tolist(), found.kept_SL.item()

    assert keep("token_drop") == ([[2, 2, 0, 0], [2, 0, 2, 0]], 8)
    # device 0 has no room left on its experts; expert 3 has room for 2 of the 4 that device 1 lost
    assert keep("fill") == ([[2, 2, 0, 0], [2, 0, 2, 2]], 8)
    assert keep("expanded_drop") == ([[2, 2, 0, 0], [2, 0, 2, 2]], 8)
    # global: C = 4 over both sources: expert 0 keeps 4 of 8, a half of each source's
    assert keep("token_drop", scope="global") == ([[2, 4, 0, 0], [2, 0, 4, 0]], 12)
    # a device takes 4 from each source: 4 of device 0's own 8, so half of each; all of device 1's
    assert keep("token_drop", level="device") == ([[2, 2, 0, 0], [4, 0, 4, 0]], 12)


@pytest.mark.parametrize("policy", DROP_POLICIES)
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("level", ["expert", "device"])
def test_copies_of_an_expert_share_its_pairs_and_no_bin_exceeds_its_room(policy, scope, level):
    rng = np.random.default_rng(3)
    placement = Placement.of([[[0, 1], [0, 2], 1, 2]], 3)
    load_SLDE = rng.integers(0, 9, (5, 1, 3, 4)).astype(np.float64)
    tokens_SD = (load_SLDE.sum((1, 3)) / 2).astype(np.int64) + 9
    dropper = Dropper(
        Dropping(policy=policy, gamma=0.8, scope=scope, level=level), placement.holds(0)[None], 2
    )
    found = dropper.keep(load_SLDE, tokens_SD)
    assert (found.kept_SL <= load_SLDE.sum((2, 3)) + 1e-9).all()
    run_SLGE = found.run_SLDE.sum(2, keepdims=True) if scope == "global" else found.run_SLDE
    tokens_SG = tokens_SD.sum(-1, keepdims=True) if scope == "global" else tokens_SD
    if level == "expert":
        limit = np.ceil(0.8 * tokens_SG[:, None, :, None] * 2 * np.array([2, 2, 1, 1]) / 6 - 1e-9)
        assert (run_SLGE <= limit + 1e-9).all()


def test_a_step_of_few_tokens_passes_untouched():
    holds_LDE = np.ones((1, 1, 64), dtype=bool)
    by_default = Dropper(Dropping(policy="token_drop", gamma=1.0), holds_LDE, 8)
    assert by_default.acts(np.array([[7], [8]])).tolist() == [False, True], "E / K tokens"
    told = Dropper(Dropping(policy="token_drop", gamma=1.0, min_tokens=3), holds_LDE, 8)
    assert told.acts(np.array([[2], [3]])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"policy": "threshold_drop", "gamma": 1.0}, "policy"),
        ({"policy": "fill", "gamma": 0.0}, "gamma"),
        ({"policy": "expanded_drop", "gamma": math.inf}, "gamma"),
        ({"policy": "fill", "gamma": 1.0, "scope": "all"}, "scope"),
        ({"policy": "fill", "gamma": 1.0, "level": "node"}, "level"),
        ({"policy": "fill", "gamma": 1.0, "min_tokens": 0}, "min_tokens"),
    ],
)
def test_settings_that_cannot_act_are_refused(settings, field):
    with pytest.raises(ConfigError, match=field):
        Dropping(**settings)
