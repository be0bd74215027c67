"""The registry, and policies as values: equal, hashable, described, rebuilt."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from evenmoe.errors import ConfigError
from evenmoe.routing import POLICIES, TokenDrop, make_policy, option_names
from tests.routing.routing_cases import example_policy

INF = float("inf")


def refused(message: str, name: str, **options: object) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        make_policy(name, **options)


def test_registry() -> None:
    names = "baseline, token_drop, expanded_drop, fill, expert_drop, threshold_drop, macs"
    assert ", ".join(POLICIES) == names
    refused(f"policy = 'tokendrop' is not allowed: one of {names}", "tokendrop", gamma=1)
    refused(
        "level = 'device' is not allowed: an option of expert_drop: fraction, scope, isolation",
        "expert_drop",
        level="device",
    )
    refused(
        "keep = 'first' is not allowed: an option of fill: gamma, scope, level, isolation, modality",
        "fill",
        gamma=1,
        keep="first",
    )
    refused("gamma = 1 is not allowed: an option of baseline: (it has none)", "baseline", gamma=1)
    refused("gamma = None is not allowed: token_drop needs it, there is no default", "token_drop")
    assert make_policy("token_drop", gamma=2, keep="last") == TokenDrop(gamma=2.0, keep="last")
    assert option_names("token_drop") == (
        ("gamma", "scope", "level", "isolation", "modality", "keep"),
        ("gamma",),
    )


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_values(name: str) -> None:
    policy = example_policy(name)
    assert policy == example_policy(name)
    assert hash(policy) == hash(example_policy(name))
    assert replace(policy) == policy
    settings = policy.describe()
    assert settings.pop("policy") == name
    assert make_policy(name, **settings) == policy
    assert repr(policy).startswith(type(policy).__name__ + "(")
    with pytest.raises(AttributeError):
        policy.gamma = 3.0
    assert policy.has_capacity == (name in ("token_drop", "expanded_drop", "fill", "macs"))
    assert policy.needs_true_scores == (name in ("expanded_drop", "fill"))


def test_token_drop_as_a_value() -> None:
    policy = TokenDrop(gamma=INF, keep="last")
    assert repr(policy) == (
        "TokenDrop(gamma=inf, scope='local', level='expert', isolation='batch', modality='uniform', keep='last')"
    )
    assert policy.describe() == {
        "policy": "token_drop",
        "gamma": "inf",
        "scope": "local",
        "level": "expert",
        "isolation": "batch",
        "modality": "uniform",
        "keep": "last",
    }
    assert replace(policy, gamma=2) == TokenDrop(gamma=2.0, keep="last")
    assert policy != TokenDrop(gamma=INF)
