"""What runs, and with which weight: packed calls against a dense reference, renormalisation, substitutes' weights."""

import pytest
import torch

import evenmoe
from evenmoe.errors import UnsupportedModelError
from evenmoe.models import layer as layer_module
from evenmoe.models.packing import Pairs, gather_rows, kept_pairs, scatter_rows
from evenmoe.models.scores import ScoreRule
from evenmoe.models.sites import find_sites
from evenmoe.routing import ExpandedDrop, Fill, TokenDrop
from tests.models.attach_reference import forward, ids_of, rows_given, tiny_model, watch, weight_zero_run

CASES = {
    "olmoe": ("softmax", False),
    "mixtral": ("softmax", True),
    "qwen3_moe": ("softmax", False),
    "deepseek_v3": ("sigmoid", True),
    "deepseek_v4": ("sqrt_softplus", True),
    "gpt_oss": ("softmax", True),
    "dbrx": ("softmax", True),
    "gemma4": ("identity", True),
    "longcat_flash": ("softmax", False),
    "zaya": ("softmax", False),
    "step3p7": ("sigmoid", True),
    "inkling_mm_model": ("sigmoid", False),
    "nemotron_h": ("sigmoid", True),
}
OPTIONS = {"qwen3_moe": {"norm_topk_prob": False}}


@pytest.mark.parametrize("policy", [TokenDrop, Fill, ExpandedDrop])
@pytest.mark.parametrize("name", CASES)
def test_packed_calls_equal_the_dense_reference(name, policy):
    model, ids = tiny_model(name, **OPTIONS.get(name, {})), ids_of(rows=2, length=24)
    for site in find_sites(model):
        if hasattr(site.router, "per_expert_scale"):
            site.router.per_expert_scale.data = torch.linspace(0.5, 2.0, site.num_experts)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with evenmoe.attach(model, policy(gamma=1.0), num_devices=2) as attached, watch(attached) as steps:
        packed = forward(model, ids, attention_mask=torch.ones_like(ids))
        info = {(layer.score, layer.renormalise == "top-k") for layer in attached.layers}
    assert info == {CASES[name]}
    assert any(not torch.equal(step.kept_TE, step.chosen_TE) for step in steps)
    with weight_zero_run(model, steps, *CASES[name]):
        dense = forward(model, ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(packed, dense, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["qwen3_moe", "dots1", "mellum"])
def test_the_configuration_decides_about_renormalising(name):
    model, ids = tiny_model(name, norm_topk_prob=True), ids_of(rows=2, length=24)
    with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, watch(attached) as steps:
        packed = forward(model, ids)
        assert {layer.renormalise for layer in attached.layers} == {"top-k"}
        score = attached.layers[0].score
    with weight_zero_run(model, steps, score, renormalise=True):
        torch.testing.assert_close(packed, forward(model, ids), rtol=2e-4, atol=2e-5)


def weights_given(model, policy, ids):
    """Each (token, expert) pair's weight in the first layer, plain and with the policy, and the step."""
    calls = []
    site = find_sites(model)[0]
    with evenmoe.attach(model, policy) as attached, watch(attached) as steps:
        handle = site.experts.register_forward_pre_hook(lambda _m, args: calls.append(args))
        forward(model, ids)
        handle.remove()
    handle = site.experts.register_forward_pre_hook(lambda _m, args: calls.append(args))
    forward(model, ids)
    handle.remove()
    packed, plain, step = calls[0], calls[1], steps[0]
    pairs = step.kept_TE.nonzero().tolist()
    assert [e for _, e in pairs] == packed[1].flatten().tolist()
    given = {(t, e): w for (t, e), w in zip(pairs, packed[2].flatten().tolist(), strict=True)}
    usual = {
        (t, int(e)): float(w)
        for t in range(ids.numel())
        for e, w in zip(plain[1][t], plain[2][t], strict=True)
    }
    return given, usual, step


def test_tokens_that_lose_nothing_keep_their_exact_weights():
    given, usual, step = weights_given(tiny_model("mixtral"), TokenDrop(gamma=1.0), ids_of())
    whole = (step.kept_TE == step.chosen_TE).all(1).nonzero().flatten().tolist()
    assert 0 < len(whole) < step.kept_TE.shape[0]
    for pair, weight in given.items():
        if pair[0] in whole:
            assert weight == usual[pair]


def test_mixtral_weights_sum_to_one_again_and_olmoe_weights_stay():
    given, usual, step = weights_given(tiny_model("mixtral"), TokenDrop(gamma=1.0), ids_of())
    for token in step.kept_TE.any(1).nonzero().flatten().tolist():
        assert sum(w for (t, _), w in given.items() if t == token) == pytest.approx(1, abs=1e-5)
    given, usual, _ = weights_given(tiny_model("olmoe"), TokenDrop(gamma=1.0), ids_of())
    assert given == {pair: usual[pair] for pair in given}


def test_a_routed_scaling_factor_is_kept():
    model = tiny_model("deepseek_v3", routed_scaling_factor=2.5)
    given, _, step = weights_given(model, TokenDrop(gamma=1.0), ids_of())
    for token in step.kept_TE.any(1).nonzero().flatten().tolist():
        assert sum(w for (t, _), w in given.items() if t == token) == pytest.approx(2.5, abs=1e-4)


def test_a_substitute_weighs_what_it_would_have_as_a_choice():
    given, _, step = weights_given(tiny_model("olmoe"), Fill(gamma=1.0), ids_of())
    added = (step.kept_TE & ~step.chosen_TE).nonzero().tolist()
    assert added
    for token, expert in added:
        assert given[token, expert] == pytest.approx(float(step.scores_TE[token, expert]), rel=1e-5)


def test_packing_by_hand():
    chosen = torch.tensor([[True, True, False], [False, True, True], [True, False, True]])
    kept = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    weights = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7], [0.5, 0.0, 0.5]])
    pairs = kept_pairs(kept, chosen, weights, weights, ScoreRule(function="softmax", renormalise="top-k"))
    assert pairs.token_P.tolist() == [0, 1, 1]
    assert pairs.expert_P.tolist() == [0, 1, 2]
    torch.testing.assert_close(pairs.weight_P, torch.tensor([1.0, 0.3, 0.7]))
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    rows, expert, weight = gather_rows(hidden, pairs)
    assert rows.tolist() == [[1, 2], [3, 4], [3, 4]]
    assert expert.shape == weight.shape == (3, 1)
    assert scatter_rows(rows, pairs, hidden.shape).tolist() == [[1, 2], [6, 8], [0, 0]]


def test_phimoe_refuses_policies_that_need_every_score():
    model, ids = tiny_model("phimoe"), ids_of()
    for policy in (Fill(gamma=1.0), ExpandedDrop(gamma=1.0)):
        with pytest.raises(UnsupportedModelError, match=r"needs the router's score of every expert.*phimoe"):
            evenmoe.attach(model, policy)
    given, usual, _ = weights_given(model, TokenDrop(gamma=1.0), ids)
    assert given == {pair: usual[pair] for pair in given}


def test_a_mutation_that_runs_dropped_pairs_is_caught(monkeypatch):
    """A test of the tests: with dropped pairs put back, counted loads and the rows that really run disagree."""
    model, ids = tiny_model("olmoe"), ids_of()

    def run():
        with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, rows_given(model) as calls:
            forward(model, ids)
        return calls, attached.loads.total.after_LE.tolist()

    calls, counted = run()
    assert calls == counted

    def put_back(kept_TE, chosen_TE, weight_TE, scores_TE, rule):
        token_P, expert_P = chosen_TE.nonzero(as_tuple=True)
        return Pairs(token_P, expert_P, weight_TE[token_P, expert_P])

    monkeypatch.setattr(layer_module, "kept_pairs", put_back)
    calls, counted = run()
    assert calls != counted
