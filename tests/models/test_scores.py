"""Score functions, and telling them from a router's weights."""

import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError
from evenmoe.models.architectures import ARCHITECTURES, stated_rule
from evenmoe.models.probe import confirm, probe, settle
from evenmoe.models.routers import Routing
from evenmoe.models.scores import SCORE_FUNCTIONS, ScoreRule, deviation, explains, infer_rule
from evenmoe.models.sites import find_sites
from evenmoe.routing import Baseline
from tests.models.attach_reference import SCORES, tiny_model

LOGITS = torch.randn(40, 8, generator=torch.Generator().manual_seed(3)).mul(2)


def routed(function, renormalise, top_k=2, scale=1.0, dtype=torch.float32):
    """What a router of this kind would say about LOGITS."""
    logits = LOGITS.softmax(-1) if function == "identity" else LOGITS
    weight, index = SCORE_FUNCTIONS[function](logits).topk(top_k)
    if renormalise == "top-k":
        weight = weight / weight.sum(1, keepdim=True)
    if renormalise == "joint":
        weight = weight / (weight.sum(1, keepdim=True) + torch.linspace(0.1, 2, 40)[:, None])
    return logits, (weight * scale).to(dtype), index


@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
def test_score_functions_against_a_loop(function):
    logits = LOGITS.abs() if function == "identity" else LOGITS
    expected = torch.tensor([SCORES[function](row) for row in logits.double().tolist()])
    rule = ScoreRule(function=function, renormalise="none")
    torch.testing.assert_close(rule.scores(logits.bfloat16().float()), rule.scores(logits.bfloat16()))
    torch.testing.assert_close(rule.scores(logits), expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("renormalise", ["none", "top-k", "joint"])
@pytest.mark.parametrize("function", SCORE_FUNCTIONS)
def test_each_kind_explains_its_own_weights_and_no_other(function, renormalise, dtype):
    said = routed(function, renormalise, scale=2.5, dtype=dtype)
    assert explains(ScoreRule(function=function, renormalise=renormalise), *said)
    found = infer_rule(*said)
    assert (found.function, found.renormalise) == (function, renormalise)
    for other in set(SCORE_FUNCTIONS) - {function}:
        assert not explains(ScoreRule(function=other, renormalise=renormalise), *said)


def test_weights_that_follow_no_function_are_not_explained():
    logits, weight, index = routed("softmax", "none")
    noise = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0))
    assert infer_rule(logits, weight * (0.5 + noise), index) is None
    assert infer_rule(logits, torch.zeros_like(weight), index) is None


def test_one_expert_per_token_can_be_told_only_unnormalised():
    assert infer_rule(*routed("sigmoid", "none", top_k=1)).function == "sigmoid"
    assert infer_rule(*routed("sigmoid", "top-k", top_k=1)) is None
    assert explains(ScoreRule(function="sigmoid", renormalise="top-k"), *routed("sigmoid", "top-k", top_k=1))


def test_a_scale_per_expert_and_another_norm():
    scale = torch.linspace(0.5, 2, 8)
    logits, weight, index = routed("softmax", "top-k")
    rule = ScoreRule(function="softmax", renormalise="top-k", expert_scale_E=scale)
    assert explains(rule, logits, weight * scale[index], index)
    assert not explains(rule, logits, weight, index)
    weight, index = LOGITS.softmax(-1).topk(2)
    squares = weight / weight.norm(p=2, dim=1, keepdim=True)
    assert explains(ScoreRule(function="softmax", renormalise="top-k", power=2.0), LOGITS, squares, index)
    assert not explains(ScoreRule(function="softmax", renormalise="top-k"), LOGITS, squares, index)


def test_slots_of_weight_zero_are_left_out():
    logits, weight, index = routed("softmax", "none")
    weight[::3, 1] = 0
    assert deviation(ScoreRule(function="softmax", renormalise="none"), logits, weight, index) < 1e-5


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="softmax, sigmoid"):
        ScoreRule(function="relu", renormalise="none")


def test_a_wrong_statement_gives_way_to_what_the_router_does(caplog):
    said = Routing(*routed("softmax", "top-k"))
    wrong = ScoreRule(function="sigmoid", renormalise="top-k")
    assert settle(wrong, said).function == "softmax"
    assert "does not score as stated" in caplog.text


def test_a_probe_leaves_the_router_as_it_was():
    model = tiny_model("mixtral")
    model.train()
    model.model.layers[0].mlp.experts.eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    site = find_sites(model)[0]
    first, again = probe(site, torch.float32), probe(site, torch.float32)
    assert torch.equal(first.weight_TK, again.weight_TK)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_a_router_that_cannot_be_probed_is_checked_by_the_first_forward(monkeypatch):
    from evenmoe.models import probe as probe_module

    monkeypatch.setattr(probe_module, "probe", lambda site, dtype: None)
    model = tiny_model("olmoe")
    site = find_sites(model)[0]
    assert not confirm(site, stated_rule("olmoe", site.router, site.block), torch.float32).checked
    with evenmoe.attach(model, Baseline()) as attached:
        assert not any(layer.checked for layer in attached.layers)
        model(torch.arange(10, 30)[None])
        assert all(layer.checked and layer.score == "softmax" for layer in attached.layers)


def test_every_stated_architecture_names_a_known_function():
    for architecture in ARCHITECTURES.values():
        assert architecture.score in {*SCORE_FUNCTIONS, "configured", None}
