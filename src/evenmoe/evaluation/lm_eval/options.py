"""What the lm-eval model may be given, from Python and as `--model_args`: every option checked, none swallowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.evaluation.specs import PolicySpec, parse_policy
from evenmoe.routing import Policy, option_names

HARNESS_OPTIONS = (
    "tokenizer",
    "max_length",
    "truncation",
    "logits_cache",
    "add_bos_token",
    "prefix_token_id",
    "softmax_dtype",
    "mixed_precision_dtype",
    "think_end_token",
    "enable_thinking",
    "chat_template_args",
)
"""Options of lm-eval's own Hugging Face model that act here as they do there."""


def check_harness_options(given: Mapping[str, Any], own: Iterable[str]) -> None:
    """Raise ConfigError for an option that is neither ours nor one of HARNESS_OPTIONS; the message lists both."""
    for name, value in given.items():
        if name not in HARNESS_OPTIONS:
            allowed = ", ".join((*own, *HARNESS_OPTIONS))
            raise ConfigError(name, value, f"no option of the model; it has: {allowed}")


def resolve_policy(
    policy: str | PolicySpec | Policy, gamma: float | str | None, settings: Mapping[str, str | None]
) -> Policy:
    """Return the policy; text is read as `evenmoe sweep --policy` has it, "token_drop:keep=random".

    settings: scope, level and isolation, None where not given. Raises ConfigError for a setting that cannot act.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if isinstance(policy, Policy):
        for name, value in (({"gamma": gamma} if gamma is not None else {}) | given).items():
            raise ConfigError(name, value, "left out: the policy was given whole, and has its own")
        return policy
    spec = policy if isinstance(policy, PolicySpec) else parse_policy(policy)
    known = option_names(spec.name)[0]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(name, value, f"left out: {spec.name} has no {name}")
    if gamma is not None and not spec.takes_gamma:
        raise ConfigError("gamma", gamma, f"left out: {spec.name} has no capacity")
    return spec.build(None if gamma is None else _number("gamma", gamma), given)


def fixed_batch_size(size: int | str) -> int:
    """Return the batch size as a number. Raises ConfigError for "auto" and for anything under 1."""
    text = str(size)
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(
            "batch_size", size, "a fixed number of at least 1: what shares a batch changes what is dropped"
        )
    return int(text)


def _number(name: str, value: float | str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(name, value, "a number above 0, or inf") from error
