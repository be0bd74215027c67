"""Properties that hold for every batch."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evenmoe.routing import Baseline, ExpandedDrop, ExpertDrop, Fill, Policy, ThresholdDrop, TokenDrop
from tests.routing.routing_cases import Case, make_case, only
from tests.routing.routing_checks import check_candidates, check_loads

quick = settings(derandomize=True, max_examples=60)

CAPACITY_POLICIES = (TokenDrop, ExpandedDrop, Fill)
seeds = st.integers(0, 10_000)
gammas = st.sampled_from([0.1, 0.5, 1, 1.1, 1.5, 2.0])
flags = st.booleans()


@st.composite
def capacity_options(draw: st.DrawFn) -> dict[str, object]:
    return {
        "gamma": draw(gammas),
        "scope": draw(st.sampled_from(["local", "global"])),
        "level": draw(st.sampled_from(["expert", "device"])),
        "isolation": draw(st.sampled_from(["batch", "request", "strict"])),
        "modality": draw(st.sampled_from(["uniform", "image-first", "text-first"])),
    }


@st.composite
def capacity_policies(draw: st.DrawFn) -> Policy:
    kind = draw(st.sampled_from(CAPACITY_POLICIES))
    options = draw(capacity_options())
    if kind is TokenDrop:
        options["keep"] = draw(st.sampled_from(["score", "first", "last", "random"]))
    return kind(**options)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    others = [Baseline(), ExpertDrop(), ExpertDrop(fraction=0.4, scope="local"), ThresholdDrop(threshold=0.2)]
    return draw(st.one_of(capacity_policies(), st.sampled_from(others)))


@st.composite
def cases(draw: st.DrawFn, ties: bool | None = None, **fixed: object) -> Case:
    fixed = {"padding": draw(flags), "maps": draw(flags), "uneven_k": draw(flags)} | fixed
    return make_case(draw(seeds), ties=draw(flags) if ties is None else ties, **fixed)


def keep(policy: Policy, case: Case) -> torch.Tensor:
    return policy.keep(case.scores, case.chosen, case.ctx)


@quick
@given(capacity_policies(), cases())
def test_load_never_exceeds_capacity(policy: Policy, case: Case) -> None:
    assert policy.has_capacity
    check_loads(policy, case, keep(policy, case))


@quick
@given(policies(), cases())
def test_kept_is_a_subset_of_the_candidates(policy: Policy, case: Case) -> None:
    check_candidates(policy, case, keep(policy, case))


@quick
@given(capacity_options(), cases(), st.sampled_from([TokenDrop, Fill]))
def test_infinite_gamma_keeps_everything(options: dict, case: Case, kind: type[Policy]) -> None:
    policy = kind(**options | {"gamma": float("inf")})
    assert torch.equal(keep(policy, case), case.chosen & case.real[:, None])


@quick
@given(policies(), cases(ties=False))
def test_permuting_experts_permutes_the_result(policy: Policy, case: Case) -> None:
    distinct = case.scores[case.real].unique().numel() == case.scores[case.real].numel()
    assume(distinct)  # equal scores of one token are ranked by expert index
    assume(not isinstance(policy, ExpertDrop) or expert_loads_differ(policy, case))
    num_experts = case.shape[1]
    holders = case.ctx.device_of_expert_E
    if holders is None:
        sizes = torch.arange(num_experts).tensor_split(case.ctx.num_devices)
        holders = torch.cat([torch.full((len(part),), device) for device, part in enumerate(sizes)])
    order = torch.randperm(num_experts, generator=torch.Generator().manual_seed(case.ctx.seed))
    permuted = Case(
        case.scores[:, order], case.chosen[:, order], replace(case.ctx, device_of_expert_E=holders[order])
    )
    assert torch.equal(keep(policy, permuted), keep(policy, case)[:, order])


def expert_loads_differ(policy: ExpertDrop, case: Case) -> bool:
    """Whether no group's skipped experts were picked by index: then a permutation may well change them."""
    if policy.scope == "local":
        return False
    loads = (case.chosen & case.real[:, None]).sum(0).sort()[0]
    skipped = max(1, round(policy.fraction * case.shape[1]))
    return bool(loads[skipped - 1] < loads[skipped])


@quick
@given(policies(), cases(padding=False, maps=False, uneven_k=False), st.integers(1, 12))
def test_padding_changes_nothing(policy: Policy, case: Case, num_padding: int) -> None:
    num_tokens, num_experts = case.shape
    assume(num_tokens >= case.ctx.num_devices)
    generator = torch.Generator().manual_seed(num_padding)
    place = torch.randperm(num_tokens + num_padding, generator=generator)[:num_tokens].sort()[0]

    def padded(value: torch.Tensor, junk: torch.Tensor) -> torch.Tensor:
        return junk.index_copy(0, place, value)

    total = num_tokens + num_padding
    ctx = replace(
        case.ctx,
        real_T=padded(torch.ones(num_tokens, dtype=torch.bool), torch.zeros(total, dtype=torch.bool)),
        request_of_token_T=padded(case.ctx.request_of_token_T, torch.full((total,), 7)),
        image_T=padded(case.ctx.image_T, torch.ones(total, dtype=torch.bool)),
    )
    scores = padded(case.scores, torch.full((total, num_experts), float("nan")))
    chosen = padded(case.chosen, torch.ones(total, num_experts, dtype=torch.bool))
    kept = policy.keep(scores, chosen, ctx)
    assert torch.equal(kept[place], keep(policy, case))
    assert int(kept.sum()) == int(kept[place].sum()), "padding is never kept"


@quick
@given(capacity_options(), cases(), st.sampled_from(["score", "first", "last", "random"]))
def test_growing_gamma_never_keeps_fewer(options: dict, case: Case, keep_by: str) -> None:
    ladder = [0.1, 0.3, 0.7, 1, 1.4, 2.0, 8.0, float("inf")]
    kept = [keep(TokenDrop(keep=keep_by, **options | {"gamma": gamma}), case) for gamma in ladder]
    for smaller, larger in itertools.pairwise(kept):
        assert int(smaller.sum()) <= int(larger.sum())
        if options["isolation"] != "request":  # there, a pair in lent room may give way to one in own room
            assert not (smaller & ~larger).any()


@quick
@given(capacity_options(), cases())
def test_fill_keeps_token_drop_and_never_adds_work(options: dict, case: Case) -> None:
    kept = keep(Fill(**options), case)
    own_only = "strict" if options["isolation"] == "request" else options["isolation"]
    survivors = keep(TokenDrop(**options | {"isolation": own_only}), case)
    assert not (survivors & ~kept).any()
    assert (kept.sum(1) <= (case.chosen & case.real[:, None]).sum(1)).all()


@quick
@given(policies(), cases())
def test_same_seed_same_answer_and_no_global_state(policy: Policy, case: Case) -> None:
    state = torch.random.get_rng_state()
    scores, chosen = case.scores.clone(), case.chosen.clone()
    first = keep(policy, case)
    assert torch.equal(first, keep(policy, case))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(scores, case.scores), "the inputs are left alone"
    assert torch.equal(chosen, case.chosen), "the inputs are left alone"


def with_hostile_neighbours(case: Case, rng: torch.Generator) -> tuple[Case, torch.Tensor]:
    """The batch, and every token of request 0 alone among hostile others: they want what it wants, and more so."""
    mine = case.ctx.request_of_token_T == 0
    scores = torch.where(mine[:, None], case.scores, 10 + torch.rand(case.shape, generator=rng))
    wanted = case.chosen[mine].sum(0).argsort(descending=True, stable=True)[:2]
    chosen = case.chosen.clone()
    chosen[~mine] = False
    chosen[(~mine).nonzero(), wanted] = True
    return Case(scores, chosen, case.ctx), mine


@st.composite
def isolated_batches(draw: st.DrawFn) -> tuple[Case, torch.Tensor]:
    """A batch in which every token keeps its device when its request is alone."""
    case = draw(cases(maps=True, padding=False))
    assume(bool((case.ctx.request_of_token_T == 0).any()))
    if draw(flags):
        return with_hostile_neighbours(case, torch.Generator().manual_seed(case.ctx.seed))
    return case, case.ctx.request_of_token_T == 0


@settings(quick, max_examples=120)
@given(capacity_policies(), isolated_batches())
def test_request_isolation_keeps_what_the_request_keeps_alone(policy: Policy, batch: tuple) -> None:
    case, mine = batch
    policy = replace(policy, isolation="request")
    alone, together = keep(policy, only(case, mine)), keep(policy, case)[mine]
    assert not (alone & ~together).any(), "a neighbour took a pair that the request keeps alone"


@settings(quick, max_examples=120)
@given(st.one_of(capacity_policies(), st.sampled_from([ExpertDrop(fraction=0.4)])), isolated_batches())
def test_strict_isolation_ignores_neighbours(policy: Policy, batch: tuple) -> None:
    case, mine = batch
    policy = replace(policy, isolation="strict")
    assert torch.equal(keep(policy, only(case, mine)), keep(policy, case)[mine])


@pytest.mark.parametrize("kind", CAPACITY_POLICIES)
def test_batch_isolation_lets_a_neighbour_take_pairs(kind: type[Policy]) -> None:
    """The attack that the other two isolations stop; without it the two tests above would prove nothing."""
    case = make_case(5, num_tokens=40, num_experts=8, top_k=2, num_devices=1)
    hostile, mine = with_hostile_neighbours(case, torch.Generator().manual_seed(0))
    policy = kind(gamma=1.0)
    alone, together = keep(policy, only(hostile, mine)), keep(policy, hostile)[mine]
    assert (alone & ~together).any()


def test_request_isolation_lends_what_strict_leaves_unused() -> None:
    case = make_case(5, num_tokens=40, num_experts=8, top_k=2, num_devices=1)
    counts = {
        isolation: int(keep(TokenDrop(gamma=0.8, isolation=isolation), case).sum())
        for isolation in ("strict", "request")
    }
    assert counts["request"] > counts["strict"]


def test_random_depends_on_the_seed_and_on_nothing_global() -> None:
    case = make_case(5, num_tokens=60, num_experts=6, top_k=2, num_devices=2)
    policy = TokenDrop(gamma=0.5, keep="random")
    answers = {
        tuple(policy.keep(case.scores, case.chosen, replace(case.ctx, seed=s)).flatten().tolist())
        for s in range(5)
    }
    assert len(answers) == 5
    assert keep(policy, case).sum() == keep(TokenDrop(gamma=0.5), case).sum()


def test_random_draws_evenly_over_positions() -> None:
    scores = torch.full((400, 1), 0.5)
    chosen = torch.ones(400, 1, dtype=torch.bool)
    case = Case(scores, chosen, make_case(1).ctx)
    hits = torch.zeros(4)
    for seed in range(50):
        ctx = replace(
            case.ctx, num_devices=1, seed=seed, request_of_token_T=None, image_T=None, device_of_token_T=None
        )
        hits += TokenDrop(gamma=0.5, keep="random").keep(scores, chosen, ctx).view(4, 100).sum(1)
    assert ((hits / hits.sum() - 0.25).abs() < 0.02).all(), hits


@pytest.mark.parametrize("kind", CAPACITY_POLICIES)
def test_gradients_and_inference_mode_make_no_difference(kind: type[Policy]) -> None:
    case = make_case(5, num_tokens=40, num_experts=8, top_k=2, num_devices=2)
    kept = keep(kind(gamma=0.7), case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = case.scores.clone().requires_grad_()
        assert kind(gamma=0.7).keep(scores, case.chosen, case.ctx).equal(kept)
        with torch.inference_mode():
            assert kind(gamma=0.7).keep(case.scores * 1, case.chosen, case.ctx).equal(kept)
