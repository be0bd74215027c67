"""A victim packed into one row with attackers, as engines pack the requests of a step: what isolation keeps for it."""

import pytest
import torch

import evenmoe
from evenmoe.models.bundled import bundled_names, bundled_tokenizer, load_bundled
from evenmoe.routing import ExpandedDrop, Fill, RoutingContext, TokenDrop
from tests.models.attach_reference import tiny_model

VICTIM = "def read_lines(path):\n    with open(path) as handle:\n        return [line.rstrip() for line in handle]\n"
FLOOD = "        handle.write(line)\n"
NUM_ATTACKERS = 3


@pytest.fixture(scope="module", params=["olmoe", "text"])
def scene(request):
    """A model, the victim's tokens, and those of each attacker."""
    if request.param == "text":
        if "text" not in bundled_names():
            pytest.skip("the bundled model is not built")
        encode = bundled_tokenizer("text")
        victim = torch.tensor(encode(VICTIM).input_ids)
        return load_bundled("text"), victim, torch.tensor(encode(FLOOD * 20).input_ids)
    victim = torch.tensor([10 + byte % 90 for byte in VICTIM.encode()])[:48]
    return tiny_model("olmoe"), victim, victim[:8].repeat(12)


def forward(model, policy, requests, **options):
    """Run requests one after the other in a single row; return each layer's step and the last request's logits."""
    steps = []
    places = torch.cat([torch.arange(len(request)) for request in requests])
    ends = torch.tensor([0, *(len(request) for request in requests)]).cumsum(0)
    with (
        evenmoe.attach(model, policy, **options) as attached,
        attached.observed(steps.append),
        torch.inference_mode(),
    ):
        logits = model(
            input_ids=torch.cat(requests)[None],
            position_ids=places[None],
            cu_seq_lens_q=ends.int(),
            use_cache=False,
        ).logits[0]
    return steps, logits[-len(requests[-1]) :]


def taken(step, policy, num_own):
    """Pairs that the request at the end would keep alone, with the same scores, and does not keep."""
    own = slice(-num_own, None)
    context = RoutingContext(request_of_token_T=torch.zeros(num_own, dtype=torch.long))
    return int((policy.keep(step.scores_TE[own], step.chosen_TE[own], context) & ~step.kept_TE[own]).sum())


@pytest.mark.parametrize("kind", [TokenDrop, Fill])
@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
def test_what_attackers_take(scene, kind, isolation):
    model, victim, attacker = scene
    policy = kind(gamma=1.0, isolation=isolation)
    steps, _logits = forward(model, policy, [attacker] * NUM_ATTACKERS + [victim])
    assert all(step.applied for step in steps)
    lost = sum(taken(step, policy, len(victim)) for step in steps)
    assert (lost > 0) == (isolation == "batch")


@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
def test_whose_answer_changes(scene, isolation):
    model, victim, attacker = scene
    policy = TokenDrop(gamma=1.0, isolation=isolation)
    alone, logits_alone = forward(model, policy, [victim])
    amid, logits_amid = forward(model, policy, [attacker] * NUM_ATTACKERS + [victim])
    same = [torch.equal(a.kept_TE, b.kept_TE[-len(victim) :]) for a, b in zip(alone, amid, strict=True)]
    close = torch.allclose(logits_alone, logits_amid, atol=1e-3)
    if isolation == "strict":
        assert all(same)
        assert close
    else:
        assert not all(same)
        assert not close
    if isolation == "request":  # room is lent, so later layers see other inputs; the first keeps all and more
        assert not (alone[0].kept_TE & ~amid[0].kept_TE[-len(victim) :]).any()


def test_without_a_limit_neighbours_do_not_matter(scene):
    model, victim, attacker = scene
    policy = TokenDrop(gamma=float("inf"))
    alone, logits_alone = forward(model, policy, [victim])
    amid, logits_amid = forward(model, policy, [attacker] * NUM_ATTACKERS + [victim])
    for a, b in zip(alone, amid, strict=True):
        assert torch.equal(a.kept_TE, b.kept_TE[-len(victim) :])
    torch.testing.assert_close(logits_alone, logits_amid, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kind", "same"), [(TokenDrop, True), (Fill, False), (ExpandedDrop, False)])
def test_on_several_devices_only_token_drop_is_strict(scene, kind, same):
    """Which device a packed request is on depends on who comes before it, and so do the experts that others offer it.

    That is why serving refuses the other two with isolation on more than one device.
    """
    model, victim, attacker = scene
    policy = kind(gamma=1.0, isolation="strict")
    alone, _ = forward(model, policy, [victim], num_devices=2)
    amid, _ = forward(model, policy, [attacker] * NUM_ATTACKERS + [victim], num_devices=2)
    assert torch.equal(alone[0].kept_TE, amid[0].kept_TE[-len(victim) :]) == same
