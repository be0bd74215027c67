"""What is refused, and with which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.routing import (
    POLICIES,
    Baseline,
    ExpandedDrop,
    ExpertDrop,
    Fill,
    RoutingContext,
    ThresholdDrop,
    TokenDrop,
    contiguous_split,
)
from tests.routing.routing_cases import example_policy

SCORES = torch.tensor([[0.7, 0.2, 0.1, 0.0]] * 3)
CHOSEN = torch.tensor([[True, True, False, False]] * 3)
NAN, INF = float("nan"), float("inf")
KNOWN = RoutingContext(
    image_T=torch.tensor([True, False, True]), entropy_T=torch.ones(3), modality_E=torch.tensor([1, -1, 0, 0])
)
"""Whatever a policy may ask of SCORES."""


def refused(message: str, call: Callable[[], object], error: type[Exception] = ConfigError) -> None:
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        call()


def scores_with(token: int, expert: int, value: float) -> torch.Tensor:
    scores = SCORES.clone()
    scores[token, expert] = value
    return scores


@pytest.mark.parametrize("kind", [TokenDrop, ExpandedDrop, Fill])
def test_settings_of_the_capacity_policies(kind: type) -> None:
    for gamma in (0, -1.5, NAN, True, "1.0", None):
        refused(
            f"gamma = {gamma!r} is not allowed: a number above 0 (inf means no limit)",
            lambda gamma=gamma: kind(gamma=gamma),
        )
    for field, names in {
        "scope": "local, global",
        "level": "expert, device",
        "isolation": "batch, request, strict",
        "modality": "uniform, image-first, text-first",
    }.items():
        for value in ("other", None, 1):
            refused(
                f"{field} = {value!r} is not allowed: one of {names}",
                lambda field=field, value=value: kind(gamma=1, **{field: value}),
            )
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError):
        kind(1.0)
    with pytest.raises(TypeError):
        kind(gamma=1.0, gama=2.0)


def test_keep_is_an_option_of_token_drop_only() -> None:
    for value in ("scores", None, ""):
        refused(
            f"keep = {value!r} is not allowed: one of score, first, last, random",
            lambda value=value: TokenDrop(gamma=1, keep=value),
        )
    with pytest.raises(TypeError):
        Fill(gamma=1, keep="first")


def test_expanded_drop_without_limit() -> None:
    message = (
        "gamma = inf is not allowed: a finite number for expanded_drop: with unlimited capacity every token would "
        "get every expert on its device, which is not the model without limits; use baseline, token_drop or fill"
    )
    refused(message, lambda: ExpandedDrop(gamma=INF))
    refused(message, lambda: replace(ExpandedDrop(gamma=1), gamma=INF))


def test_settings_of_the_other_policies() -> None:
    for fraction in (0, 1, 1.5, -0.1, NAN, True, "0.1", None):
        refused(
            f"fraction = {fraction!r} is not allowed: a number above 0 and below 1",
            lambda fraction=fraction: ExpertDrop(fraction=fraction),
        )
    for threshold in (0, 1, -0.1, NAN, True, "0.1", None):
        refused(
            f"threshold = {threshold!r} is not allowed: a number above 0 and below 1",
            lambda threshold=threshold: ThresholdDrop(threshold=threshold),
        )
    refused("scope = 'all' is not allowed: one of local, global", lambda: ExpertDrop(scope="all"))
    for kind, option in (
        (ExpertDrop, "level"),
        (ExpertDrop, "gamma"),
        (ThresholdDrop, "gamma"),
        (Baseline, "gamma"),
    ):
        with pytest.raises(TypeError):
            kind(**{option: 1})


def test_expert_drop_that_would_skip_all() -> None:
    refused(
        "fraction = 0.9 is not allowed: one that leaves at least one of 4 experts",
        lambda: ExpertDrop(fraction=0.9).keep(SCORES, CHOSEN, RoutingContext()),
    )


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_scores_that_are_not_finite(name: str, value: float) -> None:
    policy = example_policy(name)
    # Also where only an expert outside the top-k has it.
    refused(
        f"scores_TE = {value!r} is not allowed: finite, but token 2 has it for expert 3",
        lambda: policy.keep(scores_with(2, 3, value), CHOSEN, KNOWN),
    )


def test_large_finite_scores_are_fine() -> None:
    scores = torch.full((3, 4), 3e38)  # their sum is infinite
    assert TokenDrop(gamma=INF).keep(scores, CHOSEN, RoutingContext()).equal(CHOSEN)


@pytest.mark.parametrize("name", POLICIES)
def test_tensors_that_disagree(name: str) -> None:
    policy, ctx = example_policy(name), RoutingContext()
    refused(
        "chosen_TE has shape (2, 4), scores_TE has shape (3, 4)",
        lambda: policy.keep(SCORES, CHOSEN[:2], ctx),
        ShapeError,
    )
    refused(
        "scores_TE must be [tokens, experts], got shape (4,)",
        lambda: policy.keep(SCORES[0], CHOSEN[0], ctx),
        ShapeError,
    )
    refused(
        "scores_TE = torch.int64 is not allowed: a floating-point tensor",
        lambda: policy.keep(SCORES.long(), CHOSEN, ctx),
    )
    refused(
        "chosen_TE = torch.float32 is not allowed: a bool tensor",
        lambda: policy.keep(SCORES, CHOSEN.float(), ctx),
    )
    for field, length, noun in (
        ("device_of_token_T", 3, "tokens"),
        ("real_T", 3, "tokens"),
        ("request_of_token_T", 3, "tokens"),
        ("image_T", 3, "tokens"),
        ("device_of_expert_E", 4, "experts"),
    ):
        dtype = torch.bool if field in ("real_T", "image_T") else torch.long
        wrong = RoutingContext(**{field: torch.zeros(9, dtype=dtype)})
        refused(
            f"{field} has 9 entries for {length} {noun}",
            lambda wrong=wrong: policy.keep(SCORES, CHOSEN, wrong),
            ShapeError,
        )


def test_settings_without_what_they_need() -> None:
    for policy in (TokenDrop(gamma=1, modality="image-first"), Fill(gamma=INF, modality="image-first")):
        refused(
            "modality = 'image-first' is not allowed: it needs RoutingContext.image_T, which is None",
            lambda policy=policy: policy.keep(SCORES, CHOSEN, RoutingContext()),
        )
    for policy in (ExpandedDrop(gamma=1, isolation="strict"), ExpertDrop(isolation="strict")):
        refused(
            "isolation = 'strict' is not allowed: it needs RoutingContext.request_of_token_T, which is None",
            lambda policy=policy: policy.keep(SCORES, CHOSEN, RoutingContext()),
        )


def test_more_devices_than_experts_or_tokens() -> None:
    many = RoutingContext(num_devices=5)
    refused(
        "num_devices = 5 is not allowed: at most the 4 experts, unless device_of_expert_E is given",
        lambda: TokenDrop(gamma=1).keep(SCORES, CHOSEN, many),
    )
    four = RoutingContext(num_devices=4)
    refused(
        "num_devices = 4 is not allowed: at most the 3 real tokens, unless device_of_token_T is given",
        lambda: TokenDrop(gamma=1).keep(SCORES, CHOSEN, four),
    )
    refused(
        "num_devices = 3 is not allowed: at most the 2 real tokens, unless device_of_token_T is given",
        lambda: Fill(gamma=1).keep(
            SCORES, CHOSEN, RoutingContext(num_devices=3, real_T=torch.tensor([True, False, True]))
        ),
    )
    assert TokenDrop(gamma=1, scope="global").keep(SCORES, CHOSEN, four).any(), (
        "global needs no device of a token"
    )
    empty_devices = RoutingContext(
        num_devices=9,
        device_of_token_T=torch.tensor([8, 0, 0]),
        device_of_expert_E=torch.tensor([0, 0, 8, 8]),
    )
    for policy in (TokenDrop(gamma=1, level="device"), ExpandedDrop(gamma=1), Fill(gamma=1)):
        assert policy.keep(SCORES, CHOSEN, empty_devices).any(), "given maps may leave devices empty"


def test_contexts() -> None:
    for num_devices in (0, -1, 1.0, True, "2"):
        refused(
            f"num_devices = {num_devices!r} is not allowed: an integer of at least 1",
            lambda num_devices=num_devices: RoutingContext(num_devices=num_devices),
        )
    refused("seed = 0.5 is not allowed: an integer", lambda: RoutingContext(seed=0.5))
    refused(
        "device_of_token_T = 2 is not allowed: a device from 0 to 1",
        lambda: RoutingContext(num_devices=2, device_of_token_T=torch.tensor([0, 2])),
    )
    refused(
        "device_of_expert_E = -1 is not allowed: a device from 0 to 1",
        lambda: RoutingContext(num_devices=2, device_of_expert_E=torch.tensor([0, -1])),
    )
    refused(
        "holds_DE = 'a tensor' is not allowed: None where device_of_expert_E is given",
        lambda: RoutingContext(
            device_of_expert_E=torch.zeros(4, dtype=torch.long), holds_DE=torch.ones(1, 4) > 0
        ),
    )
    refused(
        "holds_DE = torch.float32 is not allowed: a bool tensor, or None",
        lambda: RoutingContext(holds_DE=torch.ones(1, 4)),
    )
    refused(
        "holds_DE must be [2 devices, experts], got shape (1, 4)",
        lambda: RoutingContext(num_devices=2, holds_DE=torch.ones(1, 4) > 0),
        ShapeError,
    )
    refused(
        "holds_DE = 'no device for expert 1' is not allowed: at least one device for every expert",
        lambda: RoutingContext(holds_DE=torch.tensor([[True, False]])),
    )
    refused(
        "holds_DE has 3 experts, the scores have 4",
        lambda: TokenDrop(gamma=1).keep(SCORES, CHOSEN, RoutingContext(holds_DE=torch.ones(1, 3) > 0)),
        ShapeError,
    )
    refused(
        "real_T = torch.int64 is not allowed: a tensor of bool, or None",
        lambda: RoutingContext(real_T=torch.tensor([1, 0])),
    )
    refused(
        "request_of_token_T = torch.float32 is not allowed: a tensor of integers, or None",
        lambda: RoutingContext(request_of_token_T=torch.tensor([1.0])),
    )
    refused(
        "image_T = [True] is not allowed: a tensor of bool, or None", lambda: RoutingContext(image_T=[True])
    )
    refused(
        "image_T must have one dimension, got shape (1, 2)",
        lambda: RoutingContext(image_T=torch.tensor([[True, False]])),
        ShapeError,
    )
    padding = RoutingContext(device_of_token_T=torch.tensor([0, -1]), real_T=torch.tensor([True, False]))
    assert padding.num_devices == 1, "a padding token's device is never looked at"


def test_threshold_drop_of_logits() -> None:
    with pytest.raises(ConfigError, match=r"at least 0 for threshold_drop \(probabilities, not logits\)"):
        ThresholdDrop(threshold=0.1).keep(scores_with(1, 1, -0.5), CHOSEN, RoutingContext())
    kept = ThresholdDrop(threshold=0.1).keep(scores_with(1, 3, -0.5), CHOSEN, RoutingContext())
    assert kept.equal(CHOSEN), "scores outside the top-k are not looked at"


@pytest.mark.parametrize("name", POLICIES)
def test_batches_without_tokens(name: str) -> None:
    nobody = replace(KNOWN, num_devices=2, image_T=KNOWN.image_T[:0], entropy_T=KNOWN.entropy_T[:0])
    empty = example_policy(name).keep(SCORES[:0], CHOSEN[:0], nobody)
    assert empty.shape == (0, 4)
    assert empty.dtype == torch.bool
    padding = replace(KNOWN, num_devices=2, real_T=torch.zeros(3, dtype=torch.bool))
    assert not example_policy(name).keep(SCORES * NAN, CHOSEN, padding).any()


@pytest.mark.parametrize("name", POLICIES)
def test_tokens_without_chosen_experts(name: str) -> None:
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    kept = example_policy(name).keep(SCORES, nothing, KNOWN)
    assert kept.any() == (name == "expanded_drop")


def test_contiguous_split() -> None:
    assert contiguous_split(10, 4).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert contiguous_split(2, 4).tolist() == [0, 1]
    assert contiguous_split(0, 3).tolist() == []
    assert contiguous_split(3, 1).dtype == torch.int64
    refused("parts = 0 is not allowed: an integer of at least 1", lambda: contiguous_split(3, 0))
    refused("n = -1 is not allowed: an integer of at least 0", lambda: contiguous_split(-1, 2))
