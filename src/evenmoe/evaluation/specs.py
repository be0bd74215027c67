"""Policies named in words: what the command line, a config file and a result row call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from evenmoe.errors import ConfigError
from evenmoe.routing import Policy, make_policy, option_names

LABELS = {
    "baseline": "No limit",
    "token_drop": "Token Drop",
    "expanded_drop": "Expanded Drop",
    "fill": "Fill",
    "expert_drop": "Expert Drop",
    "threshold_drop": "Threshold drop",
    "macs": "MACS",
}


class PolicySpec(BaseModel):
    """One policy with the options that differ from its defaults; gamma is chosen per row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: Mapping[str, str | float] = {}

    @property
    def family(self) -> str:
        """A name for people, without how strong it is: "Token Drop (random)"."""
        words = [value for key, value in self.options.items() if isinstance(value, str) and key != "labels"]
        return LABELS[self.name] + (f" ({', '.join(words)})" if words else "")

    def setting(self, gamma: float | None) -> str:
        """How strong it is, for people: "γ 1.5", "fraction 0.1", or "" for the baseline."""
        numbers = {"γ": gamma} if gamma is not None else {}
        numbers |= {key: value for key, value in self.options.items() if not isinstance(value, str)}
        return ", ".join(f"{key} {value:g}" for key, value in numbers.items())

    @property
    def takes_gamma(self) -> bool:
        """Whether the policy has a capacity, and so a row per gamma."""
        return "gamma" in option_names(self.name)[0]

    def build(self, gamma: float | None, common: Mapping[str, str] | None = None) -> Policy:
        """The policy with `gamma` (where it takes one) and those of the `common` options that it has."""
        known, _ = option_names(self.name)
        options: dict[str, str | float] = {
            key: value for key, value in (common or {}).items() if key in known
        }
        options |= self.options
        if self.takes_gamma:
            if gamma is None:
                raise ConfigError("gamma", gamma, f"a number above 0 for {self.name}")
            options["gamma"] = gamma
        return make_policy(self.name, **options)


def parse_policy(text: str) -> PolicySpec:
    """Read "name" or "name:option=value,option=value", as in "token_drop:keep=random".

    Raises ConfigError naming the policy or the option, and what is allowed.
    """
    name, _, rest = text.strip().partition(":")
    known = [option for option in option_names(name)[0] if option != "gamma"]
    options: dict[str, str | float] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in known or not equals:
            allowed = ", ".join(known) or "none"
            raise ConfigError(f"option of {name}", item, f"option=value with an option out of: {allowed}")
        options[key] = _number(value)
    spec = PolicySpec(name=name, options=options)
    spec.build(1.0)
    return spec


def parse_policies(texts: Sequence[str]) -> tuple[PolicySpec, ...]:
    """Each text by `parse_policy`; a policy named twice is refused."""
    specs: list[PolicySpec] = []
    for spec in map(parse_policy, texts):
        if spec in specs:
            raise ConfigError("policy", f"{spec.family} {spec.setting(None)}".strip(), "named once")
        specs.append(spec)
    return tuple(specs)


def _number(value: str) -> str | float:
    try:
        return float(value)
    except ValueError:
        return value
