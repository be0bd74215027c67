"""Every policy, with every option, against its slow oracle."""

from __future__ import annotations

import itertools

import pytest
import torch

from evenmoe.routing import Baseline, ExpandedDrop, ExpertDrop, Fill, Policy, ThresholdDrop, TokenDrop
from tests.oracles.routing import oracle_keep
from tests.routing.routing_cases import Case, make_case

SCOPES = ("local", "global")
LEVELS = ("expert", "device")
ISOLATIONS = ("batch", "request", "strict")
MODALITIES = ("uniform", "image-first", "text-first")
KEEPS = ("score", "first", "last", "random")

CASES = {
    "plain": {"seed": 1, "num_devices": 2},
    "padding": {"seed": 2, "num_devices": 2, "padding": True, "num_tokens": 18},
    "ties": {"seed": 3, "num_devices": 3, "ties": True, "num_tokens": 16},
    "ties, padding, maps, uneven K": {
        "seed": 4,
        "num_devices": 3,
        "ties": True,
        "padding": True,
        "maps": True,
        "uneven_k": True,
    },
    "copies of experts": {"seed": 5, "num_devices": 3, "padding": True, "copies": True, "num_tokens": 16},
}


def assert_equals_oracle(policy: Policy, case: Case) -> None:
    kept = policy.keep(case.scores, case.chosen, case.ctx)
    assert kept.dtype == torch.bool
    pairs = {(token, expert) for token, expert in kept.nonzero().tolist()}
    assert pairs == oracle_keep(policy, case.scores, case.chosen, case.ctx), str(policy)


def capacity_policies(**settings: object) -> list[Policy]:
    token_drops = [TokenDrop(keep=keep, **settings) for keep in KEEPS]
    return [*token_drops, ExpandedDrop(**settings), Fill(**settings)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_capacity_policies(name: str, scope: str, level: str, isolation: str) -> None:
    case = make_case(**CASES[name])
    for modality, gamma in itertools.product(MODALITIES, (0.5, 1, 1.3)):
        settings = {
            "gamma": gamma,
            "scope": scope,
            "level": level,
            "isolation": isolation,
            "modality": modality,
        }
        for policy in capacity_policies(**settings):
            assert_equals_oracle(policy, case)


@pytest.mark.parametrize("seed", range(12))
def test_capacity_policies_on_drawn_batches(seed: int) -> None:
    case = make_case(
        100 + seed,
        padding=seed % 2 == 0,
        ties=seed % 3 == 0,
        uneven_k=seed % 4 == 0,
        maps=seed % 2 == 1,
        copies=seed % 5 == 0,
    )
    for level, isolation in itertools.product(LEVELS, ISOLATIONS):
        for policy in capacity_policies(gamma=0.8, level=level, isolation=isolation):
            assert_equals_oracle(policy, case)


@pytest.mark.parametrize("name", CASES)
def test_policies_without_capacity(name: str) -> None:
    case = make_case(**CASES[name])
    policies: list[Policy] = [Baseline(), ThresholdDrop(threshold=0.1), ThresholdDrop(threshold=0.3)]
    for scope, isolation, fraction in itertools.product(SCOPES, ISOLATIONS, (0.1, 0.3, 0.6)):
        policies.append(ExpertDrop(scope=scope, isolation=isolation, fraction=fraction))
    for policy in policies:
        assert_equals_oracle(policy, case)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logits", [False, True])
def test_score_types_and_signs(dtype: torch.dtype, logits: bool) -> None:
    case = make_case(7, num_tokens=20, num_devices=2)
    scores = (case.scores.log() + 1.5 if logits else case.scores).to(dtype)
    assert not logits or (bool((scores < 0).any()) and bool((scores > 0).any()))
    for policy in capacity_policies(gamma=0.7):
        assert_equals_oracle(policy, Case(scores, case.chosen, case.ctx))


def test_float64_scores_that_float32_cannot_tell_apart() -> None:
    case = make_case(8, num_tokens=20, num_devices=1)
    scores = 0.5 + case.scores.double() * 1e-12
    for policy in (TokenDrop(gamma=0.7), ExpandedDrop(gamma=0.7), Fill(gamma=0.7)):
        assert_equals_oracle(policy, Case(scores, case.chosen, case.ctx))


def test_negative_zero_ties_with_zero() -> None:
    case = make_case(9, num_tokens=12, num_devices=1, num_experts=4, top_k=2)
    scores = torch.zeros(case.shape)
    scores[::2] = -0.0
    for policy in (TokenDrop(gamma=0.5), ExpandedDrop(gamma=0.5), Fill(gamma=0.5)):
        assert_equals_oracle(policy, Case(scores, case.chosen, case.ctx))


@pytest.mark.parametrize("seed", range(4))
def test_long_batches(seed: int) -> None:
    """Long enough that the histogram settles most pairs, and that tokens refuse offers."""
    case = make_case(seed, num_tokens=300, num_experts=6, top_k=2, num_devices=2, ties=seed % 2 == 1)
    for policy in (
        TokenDrop(gamma=0.9),
        ExpandedDrop(gamma=0.9),
        Fill(gamma=0.9, scope="global"),
        Fill(gamma=0.4),
    ):
        assert_equals_oracle(policy, case)


def test_strided_tensors() -> None:
    case = make_case(11, num_tokens=16, num_devices=2)
    scores, chosen = case.scores.T.contiguous().T, case.chosen.T.contiguous().T
    assert not scores.is_contiguous()
    for policy in [*capacity_policies(gamma=0.7), ExpertDrop(), ThresholdDrop(threshold=0.2), Baseline()]:
        assert_equals_oracle(policy, Case(scores, chosen, case.ctx))
