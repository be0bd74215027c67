"""A decision over the tokens of all ranks is the one that a single process takes, and is no dearer than it must be."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.parallel.expert_parallel import ExpertParallel
from evenmoe.parallel.whole_batch import decides_over_ranks
from evenmoe.placement import Placement
from evenmoe.routing import (
    Baseline,
    ExpandedDrop,
    ExpertDrop,
    Fill,
    Macs,
    RoutingContext,
    ThresholdDrop,
    TokenDrop,
)
from tests.parallel.thread_ranks import run_ranks

NUM_EXPERTS, TOP_K = 6, 2
POLICIES = [
    Baseline(),
    ThresholdDrop(threshold=0.45),
    ExpertDrop(fraction=0.3),
    ExpertDrop(fraction=0.3, isolation="request"),
    ExpertDrop(fraction=0.3, scope="local"),
    *(TokenDrop(gamma=1.0, keep=keep, scope="global") for keep in ("score", "first", "last", "random")),
    *(
        cls(gamma=0.75, scope=scope, level=level, isolation=isolation)
        for cls in (TokenDrop, ExpandedDrop, Fill)
        for scope in ("local", "global")
        for level in ("expert", "device")
        for isolation in ("batch", "request", "strict")
    ),
    TokenDrop(gamma=0.75, scope="global", modality="image-first"),
    Macs(gamma=0.5, rho=1.0),
    *(
        Macs(gamma=0.5, scope="global", level=level, isolation=isolation)
        for level in ("expert", "device")
        for isolation in ("batch", "request", "strict")
    ),
]


@st.composite
def batches(draw, num_ranks):
    """Scores, choices, padding, requests and images of each rank's tokens."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parts = []
    for _ in range(num_ranks):
        num_tokens = draw(st.integers(0, 9))
        scores_TE = torch.rand(num_tokens, NUM_EXPERTS, generator=generator).softmax(1)
        skewed_TE = scores_TE + 0.1 * torch.arange(NUM_EXPERTS)
        real_T = torch.rand(num_tokens, generator=generator) < draw(st.sampled_from([0.0, 0.7, 2.0]))
        chosen_TE = torch.zeros(num_tokens, NUM_EXPERTS, dtype=torch.bool)
        chosen_TE.scatter_(1, skewed_TE.topk(TOP_K).indices, True)
        parts.append(
            {
                "scores_TE": scores_TE,
                "chosen_TE": chosen_TE & real_T[:, None],
                "real_T": real_T,
                "request_of_token_T": torch.arange(num_tokens) // 3,
                "image_T": torch.rand(num_tokens, generator=generator) < 0.5,
                "entropy_T": torch.rand(num_tokens, generator=generator),
            }
        )
    return parts


def context(parts, ranks, num_ranks, holds_DE):
    """The context of the given ranks' tokens, one rank after the other."""
    requests = [parts[rank]["request_of_token_T"] + 100 * rank for rank in ranks]
    return RoutingContext(
        num_devices=num_ranks,
        device_of_token_T=torch.cat(
            [torch.full((parts[rank]["real_T"].shape[0],), rank, dtype=torch.long) for rank in ranks]
        ),
        holds_DE=holds_DE,
        real_T=torch.cat([parts[rank]["real_T"] for rank in ranks]),
        request_of_token_T=torch.cat(requests) - (100 * ranks[0] if len(ranks) == 1 else 0),
        image_T=torch.cat([parts[rank]["image_T"] for rank in ranks]),
        entropy_T=torch.cat([parts[rank]["entropy_T"] for rank in ranks]),
        modality_E=torch.tensor([1, -1, 0, 1, -1, 0]),
        seed=7,
    )


def parallel_of(group, placement, form="data"):
    return ExpertParallel(group, placement, form, [NUM_EXPERTS], [])


PLACEMENTS = {2: [0, 1, [0, 1], 1, 0, [0, 1]], 3: [2, 1, 0, 0, [0, 1, 2], [1, 2]]}


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@given(data=st.data(), num_ranks=st.sampled_from([2, 3]))
@settings(max_examples=12)
def test_ranks_decide_as_one_process_does(policy, data, num_ranks):
    parts = data.draw(batches(num_ranks))
    placement = Placement.of(PLACEMENTS[num_ranks], num_ranks)
    holds_DE = torch.from_numpy(placement.holds(0))

    def worker(group):
        part, ctx = parts[group.rank], context(parts, [group.rank], num_ranks, holds_DE)
        return parallel_of(group, placement).keep(
            policy, part["scores_TE"], part["chosen_TE"], ctx, decode=False, applies=lambda *_: True
        )

    expected_TE = policy.keep(
        torch.cat([part["scores_TE"] for part in parts]),
        torch.cat([part["chosen_TE"] for part in parts]),
        context(parts, range(num_ranks), num_ranks, holds_DE),
    )
    assert torch.equal(torch.cat(run_ranks(num_ranks, worker)), expected_TE)


def even_parts(num_tokens):
    """Every expert has the same load on each of two ranks."""
    chosen_TE = torch.zeros(num_tokens, NUM_EXPERTS, dtype=torch.bool)
    for slot in range(TOP_K):
        chosen_TE[torch.arange(num_tokens), (torch.arange(num_tokens) + 3 * slot) % NUM_EXPERTS] = True
    return torch.full((num_tokens, NUM_EXPERTS), 1 / NUM_EXPERTS), chosen_TE


def exchanged(
    policy, chosen_of_rank, placement=(0, 0, 0, 1, 1, 1), applies=lambda *_: True, decode=(False, False)
):
    """What two ranks keep, and the names of their collectives."""
    placed = Placement.of(list(placement), 2)

    def worker(group):
        scores_TE, chosen_TE = chosen_of_rank[group.rank]
        num_tokens = chosen_TE.shape[0]
        ctx = RoutingContext(
            num_devices=2,
            device_of_token_T=torch.full((num_tokens,), group.rank, dtype=torch.long),
            device_of_expert_E=torch.from_numpy(placed.device_of_expert(0)),
            request_of_token_T=torch.zeros(num_tokens, dtype=torch.long),
        )
        kept = parallel_of(group, placed).keep(
            policy, scores_TE, chosen_TE, ctx, decode=decode[group.rank], applies=applies
        )
        return kept, [name for name, _ in group.calls]

    return run_ranks(2, worker)


@pytest.mark.parametrize(
    "policy",
    [
        TokenDrop(gamma=0.5),
        TokenDrop(gamma=math.inf, scope="global"),
        TokenDrop(gamma=0.5, scope="global", isolation="strict"),
        ExpertDrop(scope="local"),
        ThresholdDrop(threshold=0.1),
        Baseline(),
    ],
    ids=repr,
)
def test_local_decisions_exchange_nothing(policy):
    assert not decides_over_ranks(policy)
    for _, calls in exchanged(policy, [even_parts(6), even_parts(12)]):
        assert calls == []


@pytest.mark.parametrize("level", ["expert", "device"])
@pytest.mark.parametrize("policy", [TokenDrop, Fill])
def test_counts_alone_show_that_nothing_is_over_capacity(policy, level):
    even = [even_parts(6), even_parts(12)]
    for (kept, calls), (_, chosen_TE) in zip(
        exchanged(policy(gamma=1.0, scope="global", level=level), even), even, strict=True
    ):
        assert calls == ["all_reduce"]
        assert torch.equal(kept, chosen_TE)
    for _, calls in exchanged(policy(gamma=0.8, scope="global", level=level), even):
        assert calls == ["all_reduce", "all_gather", "all_gather", "all_gather"]


def test_an_overload_on_one_rank_alone_is_none_of_the_whole():
    """Rank 0 has only pairs of expert 0 and 1, rank 1 only of the others: uneven on each, even together."""
    scores_TE = torch.full((3, NUM_EXPERTS), 1 / NUM_EXPERTS)
    first_TE, second_TE = torch.zeros(2, 3, NUM_EXPERTS, dtype=torch.bool)
    first_TE[:, :2] = True
    second_TE = torch.zeros(6, NUM_EXPERTS, dtype=torch.bool)
    second_TE[:3, 2:4] = True
    second_TE[3:, 4:] = True
    both = [(scores_TE, first_TE), (scores_TE.repeat(2, 1), second_TE)]
    (kept, calls), _ = exchanged(TokenDrop(gamma=1.0, scope="global"), both)
    assert calls == ["all_reduce"]
    assert torch.equal(kept, first_TE)
    (kept, calls), _ = exchanged(TokenDrop(gamma=1.0), both)
    assert calls == []
    assert kept.sum() < first_TE.sum()


def test_ranks_never_disagree_on_whether_the_policy_acts():
    asked = []

    def applies(decode, num_tokens):
        asked.append((decode, num_tokens))
        return num_tokens >= 19

    policy = TokenDrop(gamma=0.5, scope="global")
    for kept, calls in exchanged(policy, [even_parts(0), even_parts(18)], applies=applies):
        assert kept is None
        assert calls == ["all_reduce"]
    assert set(asked) == {(False, 18)}
    asked.clear()
    for kept, _ in exchanged(policy, [even_parts(1), even_parts(18)], applies=applies, decode=(True, False)):
        assert kept is not None
    assert set(asked) == {(False, 19)}
    asked.clear()
    exchanged(policy, [even_parts(0), even_parts(2)], applies=applies, decode=(False, True))
    assert set(asked) == {(True, 2)}  # a rank without real tokens has no say


def test_a_local_decision_takes_other_ranks_to_be_alike():
    asked = []

    def applies(decode, num_tokens):
        asked.append(num_tokens)
        return False

    assert [
        kept for kept, _ in exchanged(TokenDrop(gamma=0.5), [even_parts(2), even_parts(4)], applies=applies)
    ] == [
        None,
        None,
    ]
    assert sorted(asked) == [4, 8]


def test_scores_of_padding_are_never_looked_at():
    policy = TokenDrop(gamma=0.5, scope="global")
    scores_TE, chosen_TE = even_parts(6)
    poisoned_TE = scores_TE.clone()
    poisoned_TE[2] = math.nan
    real_T = torch.arange(6) != 2

    def worker(group):
        ctx = RoutingContext(
            num_devices=2, device_of_token_T=torch.full((6,), group.rank, dtype=torch.long), real_T=real_T
        )
        parallel = parallel_of(group, Placement.of([0, 0, 0, 1, 1, 1], 2))
        kept = [
            parallel.keep(
                policy, scores, chosen_TE & real_T[:, None], ctx, decode=False, applies=lambda *_: True
            )
            for scores in (scores_TE, poisoned_TE)
        ]
        return kept, dataclasses.asdict(policy)

    for (clean, poisoned), _ in run_ranks(2, worker):
        assert torch.equal(clean, poisoned)
        assert not clean[2].any()
