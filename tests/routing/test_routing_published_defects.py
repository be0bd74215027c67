"""One test for each defect of the published code that concerns routing (method, section 4).

(a) refilled slots, (b) first/last crash, (c) keeping expert 0 and losing a later one, (e) "local" is all experts,
(f) integer capacity or missing strategy is no limit, (h) Python loops. (d) and (g) concern models and evaluation.
Beside them, the hazards it shares: padding that competes, and neighbours that change a request's result.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evenmoe.errors import ConfigError
from evenmoe.routing import (
    ExpandedDrop,
    ExpertDrop,
    Fill,
    Policy,
    RoutingContext,
    ThresholdDrop,
    TokenDrop,
    capacity,
    make_policy,
)
from evenmoe.routing.benchmark import skewed_scores
from tests.routing.routing_cases import Case, top_k_mask
from tests.routing.routing_checks import check_loads

GLOBAL = RoutingContext()


def skewed(num_tokens: int = 512, num_experts: int = 64, top_k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    scores = skewed_scores(num_tokens, num_experts, seed=0)
    return scores, top_k_mask(scores, top_k)


@pytest.mark.parametrize("policy", [TokenDrop(gamma=1.0), ExpandedDrop(gamma=1.0), Fill(gamma=1.0)])
def test_defect_a_no_slot_is_refilled_and_the_peak_is_the_capacity(policy: Policy) -> None:
    scores, chosen = skewed()
    limit = capacity(1.0, 512, 4, 64)
    assert limit == 32
    assert int(chosen.sum(0).max()) > 6 * limit, "the batch is as skewed as the one on which it was found"
    kept = policy.keep(scores, chosen, GLOBAL)
    assert int(kept.sum(0).max()) == limit
    if not isinstance(policy, ExpandedDrop):
        assert int(kept.sum()) <= int(chosen.sum())


@pytest.mark.parametrize("level", ["expert", "device"])
def test_defect_b_first_and_last_run_and_keep_the_first_and_the_last(level: str) -> None:
    scores, chosen = skewed()
    first = TokenDrop(gamma=1.0, keep="first", level=level).keep(scores, chosen, GLOBAL)
    last = TokenDrop(gamma=1.0, keep="last", level=level).keep(scores, chosen, GLOBAL)
    if level == "device":
        assert first.equal(chosen), "one device has room for all"
        return
    for expert in range(64):
        tokens = chosen[:, expert].nonzero().view(-1).tolist()
        assert first[:, expert].nonzero().view(-1).tolist() == tokens[:32]
        assert last[:, expert].nonzero().view(-1).tolist() == tokens[-32:]


def test_defect_c_a_token_keeps_expert_0_and_loses_a_later_one() -> None:
    # All four want expert 3, which takes ceil(4 * 2 / 4) = 2 of them; token 3 loses it and keeps expert 0.
    chosen = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 1]]).bool()
    scores = torch.tensor(
        [[0.1, 0.3, 0.1, 0.5], [0.1, 0.4, 0.1, 0.4], [0.1, 0.1, 0.5, 0.3], [0.5, 0.1, 0.2, 0.2]]
    )
    kept = TokenDrop(gamma=1.0).keep(scores, chosen, GLOBAL)
    assert kept[3].tolist() == [True, False, False, False]
    assert kept[2].tolist() == [False, False, True, False]
    # Fill replaces what was lost, by the best score: token 3 gets expert 2, token 2 expert 0.
    kept = Fill(gamma=1.0).keep(scores, chosen, GLOBAL)
    assert kept[3].tolist() == [True, False, True, False]
    assert kept[2].tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", [ExpandedDrop, Fill])
def test_defect_e_local_is_the_device_of_the_token(kind: type[Policy]) -> None:
    scores, chosen = skewed()
    tokens, experts = torch.arange(512) // 64, torch.arange(64) // 8
    kept = kind(gamma=1.0).keep(scores, chosen, RoutingContext(num_devices=8))
    outsider = kept & ~chosen
    assert outsider.any()
    assert not (outsider & (tokens[:, None] != experts)).any(), "no expert of another device is added"

    # Not the number of the device matters, but which experts it holds: here the holders are dealt out in turn.
    dealt = torch.arange(64) % 8
    ctx = RoutingContext(num_devices=8, device_of_expert_E=dealt, device_of_token_T=torch.arange(512) % 8)
    outsider = kind(gamma=1.0).keep(scores, chosen, ctx) & ~chosen
    assert outsider.any()
    assert not (outsider & (torch.arange(512)[:, None] % 8 != dealt)).any()


@pytest.mark.parametrize("kind", [TokenDrop, ExpandedDrop, Fill])
def test_defect_f_an_integer_capacity_limits_like_the_float(kind: type[Policy]) -> None:
    scores, chosen = skewed()
    kept = kind(gamma=1).keep(scores, chosen, GLOBAL)
    assert kept.equal(kind(gamma=1.0).keep(scores, chosen, GLOBAL))
    assert int(kept.sum(0).max()) == 32


def test_defect_f_a_missing_setting_is_an_error_not_no_limit() -> None:
    for name in ("token_drop", "expanded_drop", "fill", "threshold_drop"):
        with pytest.raises(ConfigError, match="needs it, there is no default"):
            make_policy(name)
    for gamma in (None, "1", 0):
        with pytest.raises(ConfigError, match="a number above 0"):
            make_policy("token_drop", gamma=gamma)
    with pytest.raises(ConfigError, match="one of score, first, last, random"):
        make_policy("token_drop", gamma=1, keep=None)
    scores, chosen = skewed()
    assert int(TokenDrop(gamma=1).keep(scores, chosen, GLOBAL).sum(0).max()) == 32, (
        "the default strategy limits"
    )


class CountOps(TorchDispatchMode):
    """Counts the tensor operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_ops(policy: Policy, num_tokens: int, top_k: int) -> int:
    scores, chosen = skewed(num_tokens, 64, top_k)
    ctx = RoutingContext(
        num_devices=8,
        request_of_token_T=torch.arange(num_tokens) % 16,
        image_T=torch.arange(num_tokens) % 2 == 0,
    )
    with CountOps() as ops:
        policy.keep(scores, chosen, ctx)
    return ops.count


@pytest.mark.parametrize("isolation", ["batch", "request", "strict"])
@pytest.mark.parametrize("kind", [TokenDrop, ExpandedDrop, Fill, ExpertDrop, ThresholdDrop])
def test_defect_h_no_loop_over_tokens_or_slots(kind: type[Policy], isolation: str) -> None:
    options = {} if kind is ThresholdDrop else {"isolation": isolation}
    if kind is ThresholdDrop:
        options["threshold"] = 0.1
    elif kind is not ExpertDrop:
        options |= {"gamma": 1.0, "modality": "image-first"}
    policy = kind(**options)
    small, long, wide = (count_ops(policy, *shape) for shape in ((256, 2), (4096, 2), (256, 16)))
    if kind is Fill:
        # Its rounds may grow by a few with the batch; 16 times the tokens would be 16 times the operations.
        assert max(long, wide) < 3 * small
    else:
        # A batch in which nothing is contested takes a shortcut of some operations.
        assert abs(long - small) <= 30
        assert abs(wide - small) <= 30
    assert max(long, wide) < 1000


@pytest.mark.parametrize("kind", [TokenDrop, ExpandedDrop, Fill])
def test_hazard_padding_does_not_compete(kind: type[Policy]) -> None:
    """There, one more row of padding changed the kept set of 419 of 512 tokens."""
    scores, chosen = skewed()
    policy = kind(gamma=1.0, scope="global")
    kept = policy.keep(scores, chosen, GLOBAL)
    ctx = RoutingContext(real_T=torch.arange(1024) < 512)
    padding = torch.full((512, 64), 9.0), torch.ones(512, 64, dtype=torch.bool)
    padded = policy.keep(torch.cat([scores, padding[0]]), torch.cat([chosen, padding[1]]), ctx)
    assert padded[:512].equal(kept)
    assert not padded[512:].any()


@pytest.mark.parametrize("kind", [TokenDrop, ExpandedDrop, Fill])
def test_hazard_neighbours_change_a_request_only_under_batch_isolation(kind: type[Policy]) -> None:
    """There, changing the last 64 of 512 tokens changed the kept set of 55 of the 448 earlier ones."""
    scores, chosen = skewed()
    other = torch.cat([scores[:448], skewed_scores(64, 64, seed=9)])
    other_chosen = top_k_mask(other, 4)
    ctx = RoutingContext(request_of_token_T=(torch.arange(512) >= 448).long())
    changed = {}
    for isolation in ("batch", "strict"):
        policy = kind(gamma=1.0, isolation=isolation)
        before, after = policy.keep(scores, chosen, ctx), policy.keep(other, other_chosen, ctx)
        changed[isolation] = int((before[:448] != after[:448]).any(1).sum())
    assert changed["batch"] > 0
    assert changed["strict"] == 0
    check_loads(policy, Case(other, other_chosen, ctx), after)
