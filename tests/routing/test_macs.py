"""MACS against its slow oracle, by hand, and by what must hold for every batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.routing import (
    ExpertModality,
    Macs,
    RoutingContext,
    TokenDrop,
    make_policy,
    write_expert_modality,
)
from evenmoe.routing.visual_weight import UNIT, token_weights, visual_share
from tests.oracles.macs import macs as oracle
from tests.routing.macs_cases import check_weighted_loads, keep, macs_case
from tests.routing.routing_cases import Case, only

quick = settings(derandomize=True, max_examples=30)
flags = st.booleans()

OPEN = {
    "normalise": ["images", "tokens"],
    "capacity_from": ["pairs", "weight"],
    "rounding": ["none", "up", "down"],
    "edge": ["within", "across"],
    "rank_by": ["score", "weighted"],
}
CASES = {
    "plain": {"seed": 1, "num_devices": 2},
    "padding": {"seed": 2, "num_devices": 2, "padding": True, "num_tokens": 18},
    "ties": {"seed": 3, "num_devices": 3, "ties": True, "num_tokens": 16},
    "everything": {
        "seed": 4,
        "num_devices": 3,
        "ties": True,
        "padding": True,
        "maps": True,
        "uneven_k": True,
    },
    "copies of experts": {"seed": 5, "num_devices": 3, "padding": True, "copies": True, "num_tokens": 16},
}


@st.composite
def policies(draw: st.DrawFn, **fixed: object) -> Macs:
    drawn = {name: draw(st.sampled_from(choices)) for name, choices in OPEN.items()}
    drawn |= {
        "gamma": draw(st.sampled_from([0.1, 0.5, 1, 1.1, 1.5, 2.0])),
        "delta": draw(st.sampled_from([0.0, 0.5, 1.0, 4.0])),
        "rho": draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])),
        "scope": draw(st.sampled_from(["local", "global"])),
        "level": draw(st.sampled_from(["expert", "device"])),
        "isolation": draw(st.sampled_from(["batch", "request", "strict"])),
    }
    return Macs(**drawn | fixed)


@st.composite
def cases(draw: st.DrawFn, **fixed: object) -> Case:
    drawn = {name: draw(flags) for name in ("padding", "maps", "uneven_k", "ties")}
    return macs_case(draw(st.integers(0, 10_000)), **drawn | fixed)


def assert_equals_oracle(policy: Macs, case: Case) -> None:
    pairs = {(token, expert) for token, expert in keep(policy, case).nonzero().tolist()}
    assert pairs == oracle(policy, case.scores, case.chosen, case.ctx), str(policy)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", ["expert", "device"])
@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
def test_oracle(name: str, level: str, isolation: str) -> None:
    case = macs_case(**CASES[name])
    for scope, gamma, rho in itertools.product(["local", "global"], [0.4, 1.2], [0, 1]):
        given_ = {"gamma": gamma, "rho": rho, "scope": scope, "level": level, "isolation": isolation}
        assert_equals_oracle(Macs(**given_), case)
        assert_equals_oracle(Macs(edge="across", rank_by="weighted", **given_), case)


@settings(quick, max_examples=60)
@given(policies(), cases())
def test_oracle_on_drawn_batches(policy: Macs, case: Case) -> None:
    assert_equals_oracle(policy, case)


@pytest.mark.parametrize("seed", range(3))
def test_oracle_on_long_batches(seed: int) -> None:
    case = macs_case(seed, num_tokens=300, num_experts=6, top_k=2, num_devices=2, ties=seed == 1)
    for policy in (Macs(gamma=0.5), Macs(gamma=0.9, edge="across"), Macs(gamma=0.4, rank_by="weighted")):
        assert_equals_oracle(policy, case)


# By hand: one device, four experts, three text tokens and two image tokens that all want expert 0 first.

HAND_SCORES = torch.tensor(
    [[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.7, 0.3, 0, 0], [0.6, 0.4, 0, 0], [0.5, 0.4, 0, 0]]
)
HAND_CHOSEN = torch.tensor([[True, False, False, False]] * 5)
HAND_IMAGES = torch.tensor([False, True, True, False, False])
HAND_ENTROPY = torch.tensor([0.0, 2.0, 4.0, 0.0, 0.0])  # mean 3, deviation 1: z = -1 and 1


def by_hand(**options: object) -> list[int]:
    """The tokens that expert 0 keeps, C = ceil(gamma * 5 / 4)."""
    ctx = RoutingContext(image_T=HAND_IMAGES, entropy_T=HAND_ENTROPY, modality_E=torch.tensor([1, -1, 0, 0]))
    return Macs(**options).keep(HAND_SCORES, HAND_CHOSEN, ctx)[:, 0].nonzero().view(-1).tolist()


def test_weights_by_hand() -> None:
    group_T = torch.zeros(5, dtype=torch.long)
    weight_T = token_weights(HAND_ENTROPY, HAND_IMAGES, group_T, 1, delta=1.0)
    low, high = 1 / (1 + math.e), math.e / (1 + math.e)  # 0.269 for the high entropy, 0.731 for the low one
    assert weight_T.tolist() == [UNIT, round(high * UNIT), round(low * UNIT), UNIT, UNIT]
    share = visual_share(weight_T, HAND_IMAGES, group_T, 1)
    assert share.tolist() == pytest.approx([1 / 4])  # (0.731 + 0.269) / (3 + 1)


def test_capacity_by_hand() -> None:
    # C = ceil(1.2 * 5 / 4) = 2. In order of scores the weights are 1, 0.731, 0.269, 1, 1.
    assert by_hand(gamma=1.2, rho=0) == [0, 1, 2]  # exactly 2.0
    assert by_hand(gamma=1.2, rho=0, rank_by="weighted") == [0, 3]  # 0.9, 0.6, then 0.8 * 0.731 = 0.58
    assert by_hand(gamma=1.2, rho=0, delta=0) == [0, 1, 2]  # 1 + 0.5 + 0.5
    # R_v = 1/4, expert 0 is visual: C_0 = 2 * (1 + 1 * (1/4 - 1/2)) = 1.5.
    assert by_hand(gamma=1.2, rho=1) == [0]  # 1 + 0.731 is beyond 1.5
    assert by_hand(gamma=1.2, rho=1, edge="across") == [0, 1]
    assert by_hand(gamma=1.2, rho=1, rounding="up") == [0, 1, 2]
    assert by_hand(gamma=1.2, rho=1, rounding="down") == [0]
    # The 5 pairs weigh 4: C = ceil(1.7 * 4 / 4) = 2 from the weight, ceil(1.7 * 5 / 4) = 3 from the pairs.
    assert by_hand(gamma=1.7, rho=0, capacity_from="weight") == [0, 1, 2]
    assert by_hand(gamma=1.7, rho=0) == [0, 1, 2, 3]


@quick
@given(policies(), cases())
def test_weighted_load_never_exceeds_capacity(policy: Macs, case: Case) -> None:
    kept = keep(policy, case)
    assert not (kept & ~(case.chosen & case.real[:, None])).any()
    check_weighted_loads(policy, case, kept)


@quick
@given(cases(), st.sampled_from(["images", "tokens"]))
def test_delta_0_gives_every_image_token_half_a_weight(case: Case, normalise: str) -> None:
    image_T = case.ctx.image_T
    group_T = torch.zeros(case.shape[0], dtype=torch.long)
    weight_T = token_weights(case.ctx.entropy_T, image_T, group_T, 1, 0.0, normalise)
    assert torch.equal(weight_T, torch.where(image_T, UNIT // 2, UNIT))


@quick
@given(policies(rho=0.0, capacity_from="pairs", edge="within", rank_by="score"), cases())
def test_text_alone_is_token_drop(policy: Macs, case: Case) -> None:
    """Without image tokens and without scaling by modality nothing of MACS is left."""
    text = replace(case, ctx=replace(case.ctx, image_T=torch.zeros(case.shape[0], dtype=torch.bool)))
    token_drop = TokenDrop(
        gamma=policy.gamma, scope=policy.scope, level=policy.level, isolation=policy.isolation
    )
    assert torch.equal(keep(policy, text), token_drop.keep(text.scores, text.chosen, text.ctx))
    if policy.capacity_from == "pairs":
        weighed = replace(policy, capacity_from="weight")
        assert torch.equal(keep(weighed, text), keep(policy, text))


@quick
@given(policies(), cases())
def test_rho_0_is_a_static_capacity(policy: Macs, case: Case) -> None:
    static = replace(policy, rho=0.0)
    other = replace(case, ctx=replace(case.ctx, modality_E=-case.ctx.modality_E))
    assert torch.equal(keep(static, case), keep(static, other))
    shared = replace(case, ctx=replace(case.ctx, modality_E=torch.zeros_like(case.ctx.modality_E)))
    assert torch.equal(keep(policy, shared), keep(static, shared))


@quick
@given(policies(gamma=math.inf), cases())
def test_infinite_gamma_keeps_everything(policy: Macs, case: Case) -> None:
    assert torch.equal(keep(policy, case), case.chosen & case.real[:, None])


@quick
@given(policies(), cases(padding=False, maps=False, uneven_k=False), st.integers(1, 12))
def test_padding_changes_nothing(policy: Macs, case: Case, num_padding: int) -> None:
    num_tokens = case.shape[0]
    assume(num_tokens >= case.ctx.num_devices)
    total = num_tokens + num_padding
    place = torch.randperm(total, generator=torch.Generator().manual_seed(num_padding))[:num_tokens].sort()[0]

    def padded(value: torch.Tensor, junk: float) -> torch.Tensor:
        return torch.full((total, *value.shape[1:]), junk, dtype=value.dtype).index_copy(0, place, value)

    ctx = replace(
        case.ctx,
        real_T=padded(torch.ones(num_tokens, dtype=torch.bool), 0),
        request_of_token_T=padded(case.ctx.request_of_token_T, 7),
        image_T=padded(case.ctx.image_T, 1),
        entropy_T=padded(case.ctx.entropy_T, math.nan),
    )
    kept = policy.keep(padded(case.scores, math.nan), padded(case.chosen, 1), ctx)
    assert torch.equal(kept[place], keep(policy, case))
    assert int(kept.sum()) == int(kept[place].sum())


@st.composite
def isolated_batches(draw: st.DrawFn) -> tuple[Case, torch.Tensor]:
    case = draw(cases(maps=True, padding=False))
    mine = case.ctx.request_of_token_T == 0
    assume(bool(mine.any()))
    return case, mine


def alone_part(case: Case, mine: torch.Tensor) -> Case:
    part = only(case, mine)
    return replace(part, ctx=replace(part.ctx, entropy_T=case.ctx.entropy_T[mine]))


@quick
@given(policies(isolation="request"), isolated_batches())
def test_request_isolation_keeps_what_the_request_keeps_alone(policy: Macs, batch: tuple) -> None:
    case, mine = batch
    assert not (keep(policy, alone_part(case, mine)) & ~keep(policy, case)[mine]).any()


@quick
@given(policies(isolation="strict"), isolated_batches())
def test_strict_isolation_ignores_neighbours(policy: Macs, batch: tuple) -> None:
    case, mine = batch
    assert torch.equal(keep(policy, alone_part(case, mine)), keep(policy, case)[mine])


def test_a_neighbour_moves_the_weights_without_isolation() -> None:
    """Why the two tests above prove something: the entropies of other requests change what a token weighs."""
    case = macs_case(5, num_tokens=40, num_experts=4, top_k=2, num_devices=1)
    mine = case.ctx.request_of_token_T == 0
    moved_T = torch.where(mine, case.ctx.entropy_T, case.ctx.entropy_T + 5)
    moved = replace(case, ctx=replace(case.ctx, entropy_T=moved_T))
    different = [
        not torch.equal(keep(policy, case)[mine], keep(policy, moved)[mine])
        for policy in (Macs(gamma=gamma, rho=0, delta=4) for gamma in (0.3, 0.5, 0.7, 0.9))
    ]
    assert any(different)


@quick
@given(policies(edge="within", rank_by="score"), cases())
def test_growing_gamma_never_keeps_fewer(policy: Macs, case: Case) -> None:
    kept = [keep(replace(policy, gamma=gamma), case) for gamma in (0.1, 0.5, 1, 1.7, 4.0, math.inf)]
    for smaller, larger in itertools.pairwise(kept):
        assert int(smaller.sum()) <= int(larger.sum())
        if policy.isolation != "request":
            assert not (smaller & ~larger).any()


def test_ties_are_won_by_the_smaller_index() -> None:
    ctx = RoutingContext(image_T=torch.zeros(6, dtype=torch.bool), entropy_T=torch.zeros(6))
    kept = Macs(gamma=0.5, rho=0).keep(torch.full((6, 2), 0.5), torch.ones(6, 2, dtype=torch.bool), ctx)
    assert kept.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]


def test_a_visual_batch_gives_visual_experts_more_room() -> None:
    case = macs_case(7, num_tokens=200, num_experts=4, top_k=2, num_devices=1)
    ctx = replace(case.ctx, image_T=torch.arange(200) < 180, modality_E=torch.tensor([1, -1, 0, 0]))
    visual = replace(case, ctx=ctx)
    static, scaled = (keep(Macs(gamma=0.1, rho=rho), visual).sum(0) for rho in (0, 1))
    assert scaled[0] > static[0]
    assert scaled[1] < static[1]
    assert torch.equal(scaled[2:], static[2:])


def refused(match: str, **options: object) -> None:
    with pytest.raises(ConfigError, match=match):
        Macs(**{"gamma": 1.0} | options)


def test_settings_that_are_refused() -> None:
    refused("gamma", gamma=0)
    refused("delta = -1", delta=-1)
    refused("delta = inf", delta=math.inf)
    refused("delta = nan", delta=math.nan)
    refused("rho = 2.5 is not allowed: a number from 0 to 2", rho=2.5)
    refused("normalise = 'all' is not allowed: one of images, tokens", normalise="all")
    refused("edge", edge="over")
    refused("labels = 3", labels=3)
    labels = ExpertModality.of(["0"], [["visual", "text"]])
    refused("they would not act", labels=labels, rho=0)


@pytest.mark.parametrize(
    ("missing", "message"),
    [("image_T", "policy = 'macs'"), ("entropy_T", "policy = 'macs'"), ("modality_E", "rho = '0.5'")],
)
def test_a_context_without_what_it_needs_is_refused(missing: str, message: str) -> None:
    case = macs_case(1)
    with pytest.raises(ConfigError, match=f"{message}.*RoutingContext.{missing}"):
        Macs(gamma=1).keep(case.scores, case.chosen, replace(case.ctx, **{missing: None}))


def test_an_entropy_that_is_not_finite_is_refused() -> None:
    case = macs_case(1)
    token = int(case.ctx.image_T.nonzero()[0])
    entropy = case.ctx.entropy_T.clone()
    entropy[~case.ctx.image_T] = math.nan  # looked at by nobody
    ctx = replace(case.ctx, entropy_T=entropy)
    Macs(gamma=1).keep(case.scores, case.chosen, ctx)
    with pytest.raises(ConfigError, match="entropy_T"):
        Macs(gamma=1, normalise="tokens").keep(case.scores, case.chosen, ctx)
    entropy[token] = math.inf
    with pytest.raises(ConfigError, match=f"entropy_T = inf.*token {token}"):
        Macs(gamma=1).keep(case.scores, case.chosen, ctx)


def test_labels_in_the_policy_are_values(tmp_path: Path) -> None:
    labels = ExpertModality.of(["0", "1"], [["visual", "text"], ["shared", "text"]], method="by hand")
    path = write_expert_modality(labels, tmp_path / "labels.json")
    inside, by_name = Macs(gamma=1, labels=labels), Macs(gamma=1, labels=path)
    assert inside.expert_modality() == by_name.expert_modality() == labels
    for policy in (inside, by_name):
        assert hash(policy) == hash(replace(policy))
        settings_ = policy.describe()
        assert make_policy(str(settings_.pop("policy")), **settings_) == policy
    assert by_name.describe()["labels"] == str(path)
    assert Macs(gamma=1, rho=0).expert_modality() is None
    assert Macs(gamma=math.inf).expert_modality() is None
    with pytest.raises(ConfigError, match="calibrate-modality"):
        Macs(gamma=1).expert_modality()
