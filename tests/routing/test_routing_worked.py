"""Worked examples by hand, and the toy comparison of the three policies."""

from __future__ import annotations

import torch

from evenmoe.routing import ExpandedDrop, ExpertDrop, Fill, RoutingContext, ThresholdDrop, TokenDrop
from tests.routing.routing_cases import top_k_mask

# Four tokens on device 0, which holds experts 0 and 1. Each wants one expert, so C = ceil(4 * 1 / 4) = 1.
SCORES = torch.tensor(
    [
        [0.90, 0.50, 0.10, 0.00],
        [0.80, 0.60, 0.10, 0.00],
        [0.70, 0.65, 0.10, 0.00],
        [0.10, 0.70, 0.95, 0.00],
    ]
)
CHOSEN = top_k_mask(SCORES, 1)
CTX = RoutingContext(
    num_devices=2, device_of_token_T=torch.tensor([0, 0, 0, 0]), request_of_token_T=torch.tensor([0, 0, 1, 1])
)


def pairs(policy, ctx: RoutingContext = CTX) -> list[tuple[int, int]]:
    return [(token, expert) for token, expert in policy.keep(SCORES, CHOSEN, ctx).nonzero().tolist()]


def test_token_drop_keeps_the_best_score() -> None:
    assert pairs(TokenDrop(gamma=1.0)) == [(0, 0), (3, 2)]  # tokens 1 and 2 lose expert 0, their only one


def test_token_drop_keeps_the_last() -> None:
    assert pairs(TokenDrop(gamma=1.0, keep="last")) == [(2, 0), (3, 2)]


def test_expanded_drop_lets_an_outsider_in() -> None:
    # Expert 1 is local to all; token 3 scores it best although it lost nothing and so gets a second expert.
    assert pairs(ExpandedDrop(gamma=1.0)) == [(0, 0), (3, 1), (3, 2)]


def test_fill_gives_the_room_to_a_token_that_lost() -> None:
    # Expert 1 goes to token 2 (0.65), not to token 1 (0.60), nor to token 3 (0.70), which lost nothing.
    assert pairs(Fill(gamma=1.0)) == [(0, 0), (2, 1), (3, 2)]


def test_request_isolation_owns_a_slot_for_each_request() -> None:
    # Each request owns ceil(2 * 1 / 4) = 1 slot at every expert: token 2 no longer loses to its neighbour.
    assert pairs(TokenDrop(gamma=1.0, isolation="strict")) == [(0, 0), (2, 0), (3, 2)]
    assert pairs(TokenDrop(gamma=1.0, isolation="request")) == [(0, 0), (2, 0), (3, 2)]


def test_request_isolation_lends_unused_room() -> None:
    alone = RoutingContext(request_of_token_T=torch.tensor([0, 0, 0, 1]))
    # Request 0 owns ceil(3 / 4) = 1 slot of expert 0 and keeps token 0. Request 1 leaves its slot there unused.
    assert pairs(TokenDrop(gamma=1.0, isolation="strict"), alone) == [(0, 0), (3, 2)]
    assert pairs(TokenDrop(gamma=1.0, isolation="request"), alone) == [(0, 0), (1, 0), (3, 2)]


def test_device_level_lets_an_expert_exceed_its_capacity() -> None:
    # Device 0 takes 2 * 1 pairs, and all may be of expert 0.
    assert pairs(TokenDrop(gamma=1.0, level="device")) == [(0, 0), (1, 0), (3, 2)]


def test_modality_ranks_before_the_score() -> None:
    ctx = RoutingContext(image_T=torch.tensor([True, False, False, True]))
    assert pairs(TokenDrop(gamma=1.0, modality="image-first"), ctx) == [(1, 0), (3, 2)]
    assert pairs(TokenDrop(gamma=1.0, modality="text-first"), ctx) == [(0, 0), (3, 2)]


def test_expert_drop_skips_the_least_loaded() -> None:
    # Loads 3, 0, 1, 0: experts 1 and 3 are the least loaded (1 of 8 for Mixtral, here 2 of 4), then expert 2.
    assert pairs(ExpertDrop(fraction=0.5)) == [(0, 0), (1, 0), (2, 0), (3, 2)]
    assert pairs(ExpertDrop(fraction=0.75)) == [(0, 0), (1, 0), (2, 0)]


def test_expert_drop_skips_one_of_eight_and_six_of_sixty_four() -> None:
    for num_experts, skipped in ((8, 1), (64, 6), (4, 1)):
        everything = torch.ones(3, num_experts, dtype=torch.bool)
        kept = ExpertDrop().keep(torch.rand(3, num_experts), everything, RoutingContext())
        assert (~kept).any(0).nonzero().view(-1).tolist() == list(range(skipped)), (
            "ties: the lower index first"
        )


def test_threshold_drop_compares_shares() -> None:
    scores = torch.tensor([[0.75, 0.25, 0.2], [0.5, 0.25, 0.0]])
    kept = ThresholdDrop(threshold=0.25).keep(scores, top_k_mask(scores, 2), RoutingContext())
    assert kept.tolist() == [[True, True, False], [True, True, False]]  # 0.25 is not under 0.25
    kept = ThresholdDrop(threshold=0.3).keep(scores, top_k_mask(scores, 2), RoutingContext())
    assert kept.tolist() == [[True, False, False], [True, True, False]]
    zeros = torch.zeros(1, 3)
    assert ThresholdDrop(threshold=0.3).keep(zeros, top_k_mask(zeros, 2), RoutingContext()).sum() == 2


def test_toy_comparison_of_the_policies() -> None:
    """The method's toy case in shape, with 512 tokens, 64 experts, top-4, 4 devices, slightly skewed: 2048 pairs.

    There, Token Drop keeps 1628; Algorithm 2 keeps 1574 of those and 190 outsiders; Fill all 1628 and 136 more.
    Here, they are 1634; 1620 and 126; 1634 and 112.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(512, 64, generator=generator) + 0.2 * torch.randn(64, generator=generator)
    scores = logits.softmax(-1)
    chosen, ctx = top_k_mask(scores, 4), RoutingContext(num_devices=4)
    token_drop = TokenDrop(gamma=1.0).keep(scores, chosen, ctx)
    expanded = ExpandedDrop(gamma=1.0).keep(scores, chosen, ctx)
    fill = Fill(gamma=1.0).keep(scores, chosen, ctx)

    kept = int(token_drop.sum())
    survivors, outsiders = int((expanded & token_drop).sum()), int((expanded & ~token_drop).sum())
    substitutes = int((fill & ~token_drop).sum())
    assert int(chosen.sum()) == 2048
    assert 1600 < kept < 1660
    assert 0.95 * kept < survivors < kept, "Algorithm 2 loses some pairs that Token Drop keeps"
    assert int((fill & token_drop).sum()) == kept, "Fill loses none of them"
    assert 100 < substitutes < outsiders < 200
    assert kept < survivors + outsiders, "Algorithm 2 gains more than it loses"
    assert not (expanded & chosen & ~token_drop).any(), "what Token Drop lost does not come back"
    assert (fill.sum(1) <= 4).all(), "Fill never gives a token more than its top-k"
    assert (expanded.sum(1) > 4).any(), "Algorithm 2 does"
