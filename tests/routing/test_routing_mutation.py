"""A test of the tests: policies that are wrong on purpose must be caught by the checks the suite relies on."""

from __future__ import annotations

import pytest
import torch

from evenmoe.routing import ExpandedDrop, Fill, RoutingContext, TokenDrop
from tests.oracles.routing import oracle_keep
from tests.routing.routing_cases import make_case
from tests.routing.routing_checks import check_candidates, check_loads

CASE = make_case(3, num_tokens=40, num_experts=8, top_k=2, num_devices=2)


class RefillingTokenDrop(TokenDrop):
    """Puts dropped pairs back, as the published patch does."""

    def _keep(self, scores_TE: torch.Tensor, chosen_TE: torch.Tensor, ctx: RoutingContext) -> torch.Tensor:
        kept_TE = super()._keep(scores_TE, chosen_TE, ctx)
        lost = (chosen_TE & ~kept_TE).nonzero()
        kept_TE[lost[:, 0], lost[:, 1]] = True
        return kept_TE


class RefillingOnePair(RefillingTokenDrop):
    """Puts a single one back."""

    def _keep(self, scores_TE: torch.Tensor, chosen_TE: torch.Tensor, ctx: RoutingContext) -> torch.Tensor:
        kept_TE = TokenDrop._keep(self, scores_TE, chosen_TE, ctx)
        token, expert = (chosen_TE & ~kept_TE).nonzero()[0].tolist()
        kept_TE[token, expert] = True
        return kept_TE


class EverywhereLocal(ExpandedDrop):
    """Takes every expert for local, as the published code does by default."""

    def _keep(self, scores_TE: torch.Tensor, chosen_TE: torch.Tensor, ctx: RoutingContext) -> torch.Tensor:
        return super()._keep(scores_TE, chosen_TE, RoutingContext())


@pytest.mark.parametrize("mutant", [RefillingTokenDrop, RefillingOnePair])
@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
def test_a_policy_that_reinserts_dropped_pairs_is_caught(mutant: type[TokenDrop], isolation: str) -> None:
    sound = TokenDrop(gamma=0.5, isolation=isolation)
    check_loads(sound, CASE, sound.keep(CASE.scores, CASE.chosen, CASE.ctx))
    policy = mutant(gamma=0.5, isolation=isolation)
    kept = policy.keep(CASE.scores, CASE.chosen, CASE.ctx)
    with pytest.raises(AssertionError, match="above the limit"):
        check_loads(policy, CASE, kept)
    assert {tuple(pair) for pair in kept.nonzero().tolist()} != oracle_keep(
        policy, CASE.scores, CASE.chosen, CASE.ctx
    )


def test_a_policy_that_takes_every_expert_for_local_is_caught() -> None:
    sound, policy = ExpandedDrop(gamma=0.5), EverywhereLocal(gamma=0.5)
    check_candidates(sound, CASE, sound.keep(CASE.scores, CASE.chosen, CASE.ctx))
    with pytest.raises(AssertionError, match="its candidates are"):
        check_candidates(policy, CASE, policy.keep(CASE.scores, CASE.chosen, CASE.ctx))


def test_a_fill_that_runs_padding_is_caught() -> None:
    case = make_case(3, num_tokens=40, num_experts=8, top_k=2, num_devices=2, padding=True)
    kept = Fill(gamma=0.5).keep(case.scores, case.chosen, case.ctx)
    check_candidates(Fill(gamma=0.5), case, kept)
    kept[(~case.real).nonzero()[0], 0] = True
    with pytest.raises(AssertionError, match="padding token"):
        check_candidates(Fill(gamma=0.5), case, kept)
