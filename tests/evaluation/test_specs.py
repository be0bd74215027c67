"""Policies named in words."""

import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation.specs import parse_policies, parse_policy
from evenmoe.routing import TokenDrop


def test_a_policy_with_options_is_built_with_them():
    spec = parse_policy("token_drop:keep=random,level=device")
    policy = spec.build(1.5, {"scope": "global", "level": "expert"})
    assert isinstance(policy, TokenDrop)
    assert (policy.gamma, policy.scope, policy.level) == (1.5, "global", "device")
    assert policy.describe()["keep"] == "random"
    assert spec.family == "Token Drop (random, device)"
    assert spec.setting(1.5) == "γ 1.5"


def test_numbers_are_settings_not_family():
    spec = parse_policy("expert_drop:fraction=0.25")
    assert (spec.family, spec.setting(None)) == ("Expert Drop", "fraction 0.25")
    assert not spec.takes_gamma


def test_common_options_reach_only_policies_that_have_them():
    assert (
        parse_policy("threshold_drop:threshold=0.1").build(None, {"scope": "global"}).name == "threshold_drop"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokendrop", "baseline, token_drop, expanded_drop, fill"),
        ("fill:keep=random", "an option out of: scope, level"),
        ("token_drop:keep", "option=value"),
        ("token_drop:keep=best", "score, first, last, random"),
        ("token_drop:gamma=1.0", "option of token_drop"),
        ("baseline:scope=local", "out of: none"),
        ("threshold_drop", "threshold"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


def test_a_policy_named_twice_is_refused():
    with pytest.raises(ConfigError, match="named once"):
        parse_policies(["fill", "fill"])
