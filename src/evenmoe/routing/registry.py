"""The registry of policies: name -> class, and policies made from settings."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from evenmoe.errors import ConfigError, check_choice
from evenmoe.routing.baseline import Baseline
from evenmoe.routing.expanded_drop import ExpandedDrop
from evenmoe.routing.expert_drop import ExpertDrop
from evenmoe.routing.fill import Fill
from evenmoe.routing.macs import Macs
from evenmoe.routing.policy import Policy
from evenmoe.routing.threshold_drop import ThresholdDrop
from evenmoe.routing.token_drop import TokenDrop

POLICIES: Final[dict[str, type[Policy]]] = {
    policy.name: policy
    for policy in (Baseline, TokenDrop, ExpandedDrop, Fill, ExpertDrop, ThresholdDrop, Macs)
}


def make_policy(name: str, **options: Any) -> Policy:
    """Return the policy of that name with these settings.

    Raises ConfigError for an unknown name, an option that the policy does not have, or a missing one; the message lists
    what there is.
    """
    check_choice("policy", name, POLICIES)
    known, required = option_names(name)
    for option, value in options.items():
        if option not in known:
            raise ConfigError(option, value, f"an option of {name}: {', '.join(known) or '(it has none)'}")
    for option in required:
        if option not in options:
            raise ConfigError(option, None, f"{name} needs it, there is no default")
    return POLICIES[name](**options)


def option_names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of all the options of a policy, and of those without a default."""
    check_choice("policy", name, POLICIES)
    fields = [(_option(field), field) for field in dataclasses.fields(POLICIES[name])]  # type: ignore[arg-type]
    needed = [option for option, field in fields if option != "keep" and field.default is dataclasses.MISSING]
    return tuple(option for option, _ in fields), tuple(needed)


def _option(field: dataclasses.Field[Any]) -> str:
    return "keep" if field.name == "keep_by" else field.name
