"""The configuration of evenmoe inside a serving engine: from `--additional-config`, or from a TOML file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.routing import Policy, make_policy, option_names
from evenmoe.scheduling import STRATEGIES, Options


def _infinity(gamma: object) -> object:
    return math.inf if gamma == "inf" else gamma


def _gamma_as_json(gamma: float) -> float | str:
    return "inf" if math.isinf(gamma) else gamma


Gamma = Annotated[float, BeforeValidator(_infinity), Field(gt=0), PlainSerializer(_gamma_as_json)]
"""A capacity factor; "inf" in JSON and TOML is no limit."""


NEED_NO_LOADS = ("fcfs", "random", "auto")
"""Strategies that act, or may be configured, where nothing predicts loads."""

STRATEGY_OPTIONS: dict[str, tuple[str, ...]] = {
    "power_of_d": ("num_choices",),
    "power_of_d_dot": ("num_choices",),
    "peak_excess": ("exchanges",),
    "auto": ("exchanges", "min_depth", "min_gain", "max_delay"),
}


CHOOSE_ON_THEIR_DEVICE = ("expanded_drop", "fill")
"""Policies that give a token experts which the model did not choose, of the device that the token is on."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RoutingConfig(_Part):
    """Which tokens each expert accepts. With gamma inf every token keeps its experts and loads are counted."""

    policy: str = "token_drop"
    gamma: Gamma = math.inf
    options: Mapping[str, str | float] = {}
    """Settings of the policy that differ from its defaults, such as keep = "random"."""
    num_devices: Annotated[int, Field(ge=1)] = 1
    """Devices that hold the experts, by which loads and capacities are counted."""
    placement: str | None = None
    """A placement file; None: contiguous shares."""
    phases: Literal["both", "prefill", "decode"] = "prefill"
    """Which tokens are limited: of prompts, new ones, or both."""
    min_tokens: Annotated[int, Field(ge=1)] | None = None
    """The least tokens of a step for the policy to act; None: enough that an expert's even share is one token."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _policy_can_act(self) -> RoutingConfig:
        policy = self.build()
        isolation = getattr(policy, "isolation", "batch")
        if isolation != "batch" and self.num_devices > 1 and policy.name in CHOOSE_ON_THEIR_DEVICE:
            raise ConfigError(
                "num_devices",
                self.num_devices,
                f"1 with {policy.name} and isolation = {isolation!r}: it chooses among the experts of a request's "
                "device, and which one that is depends on the other requests of the step",
            )
        return self

    def build(self) -> Policy:
        """The routing policy. Raises ConfigError for a name or an option that there is not."""
        options: dict[str, Any] = dict(self.options)
        if "gamma" in option_names(self.policy)[0]:
            options["gamma"] = self.gamma
        elif not math.isinf(self.gamma):
            raise ConfigError("gamma", self.gamma, f"left out with {self.policy}, which has no capacity")
        return make_policy(self.policy, **options)

    @property
    def isolates_prompts(self) -> bool:
        """Whether a prompt is promised what its neighbours cannot take from it: it must be computed whole, by itself.

        Pieces whose size depends on the neighbours' tokens, and keys and values that another request left in a cache,
        have other capacities than the request has alone.
        """
        policy = self.build()
        is_limited = not math.isinf(getattr(policy, "gamma", 0.0))
        return is_limited and getattr(policy, "isolation", "batch") != "batch" and self.phases != "decode"


class SchedulingConfig(_Part):
    """Which waiting requests join a step."""

    strategy: str = "auto"
    """One of `evenmoe.scheduling.STRATEGIES`. Without a predictor: fcfs, random, or auto, which then is fcfs."""
    options: Mapping[str, int | float] = {}
    """Settings of the strategy that differ from its defaults, such as min_gain = 0.05 of auto."""
    window_size: Annotated[int, Field(ge=1)] = 64
    """The oldest waiting requests that a choice is made among."""
    max_passed_over: Annotated[int, Field(ge=0)] = 16
    """Steps that may admit a younger request instead of this one; then it goes before all others."""
    predictor: Literal["token-prior", "client", "none"] = "none"
    """Where a request's expected load comes from; "client": from the request itself, else it is taken as usual."""
    prior: str | None = None
    """The token prior's file."""
    feedback: bool = True
    """Correct predictions by the loads that the worker observes; without it they are only compared."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("strategy")
    @classmethod
    def _strategy_exists(cls, strategy: str) -> str:
        if strategy not in STRATEGIES:
            raise ValueError("one of " + ", ".join(STRATEGIES))
        return strategy

    @model_validator(mode="after")
    def _prior_is_for_the_token_prior(self) -> SchedulingConfig:
        if (self.predictor == "token-prior") != (self.prior is not None):
            raise ConfigError(
                "prior", self.prior, "a token prior's file with predictor token-prior, left out otherwise"
            )
        return self

    @model_validator(mode="after")
    def _strategy_can_act(self) -> SchedulingConfig:
        if self.predictor == "none" and self.strategy not in NEED_NO_LOADS:
            allowed = "token-prior or client with strategy " + self.strategy + ", which chooses by loads"
            raise ConfigError("predictor", self.predictor, allowed)
        self.strategy_options()
        return self

    def strategy_options(self) -> Options:
        """The strategy's settings. Raises ConfigError for those that there are not, or that another strategy has."""
        known = STRATEGY_OPTIONS.get(self.strategy, ())
        for name in self.options:
            if name not in known:
                has = "has " + ", ".join(known) if known else "has none"
                raise ConfigError(f"options.{name}", self.options[name], f"left out: {self.strategy} {has}")
        try:
            return Options(**dict(self.options))  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"options.{error.field}", error.value, error.allowed) from error


class MetricsConfig(_Part):
    """What is told about loads. Which experts a request used nearly reveals its text."""

    enabled: bool = True
    """Show them on `/metrics`. The engine's own scheduler learns from the same sums either way."""
    least_requests: Annotated[int, Field(ge=1)] = 8
    """Counters move only by sums over at least this many requests; 1 needs `per_request_loads`."""
    interval_s: Annotated[float, Field(gt=0)] = 1.0
    """How often counters move, at most."""
    per_request_loads: bool = False
    """Let the loads of single requests leave the process that routes them, with `least_requests` = 1 alone; vLLM's
    worker then also keeps a log of them in the spool."""

    @model_validator(mode="after")
    def _single_requests_are_asked_for(self) -> MetricsConfig:
        if self.per_request_loads != (self.least_requests == 1):
            allowed = "1 with per_request_loads = true, and at least 2 without it"
            raise ConfigError("least_requests", self.least_requests, allowed)
        return self


class ServingConfig(_Part):
    """All of it; a part that is left out has its defaults."""

    routing: RoutingConfig = RoutingConfig()
    scheduling: SchedulingConfig = SchedulingConfig()
    metrics: MetricsConfig = MetricsConfig()


def serving_config_of(body: object) -> ServingConfig:
    """The configuration that parsed JSON or TOML says.

    Raises ConfigError, which names the field from the top, for an unknown key, a wrong type or an impossible value.
    """
    if not isinstance(body, Mapping):
        raise ConfigError("evenmoe", body, "an object with any of " + ", ".join(ServingConfig.model_fields))
    try:
        return ServingConfig.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["evenmoe", *(str(part) for part in first["loc"])])
        inner = first.get("ctx", {}).get("error")
        if isinstance(inner, ConfigError):
            raise ConfigError(f"{field}.{inner.field}", inner.value, inner.allowed) from error
        raise ConfigError(field, first["input"], _allowed(first, field)) from error


def read_serving_config(path: str | Path) -> ServingConfig:
    """Read a TOML file. Raises FileNotFoundError, FileFormatError, ConfigError as `serving_config_of`."""
    path = Path(path)
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not a TOML file: {error}") from error
    return serving_config_of(body)


_PARTS: dict[str, type[BaseModel]] = {
    "routing": RoutingConfig,
    "scheduling": SchedulingConfig,
    "metrics": MetricsConfig,
}


def _allowed(error: Any, field: str) -> str:
    """What is allowed, from pydantic's words."""
    if error["type"] == "extra_forbidden":
        part = field.split(".")[1]
        names = (
            _PARTS[part].model_fields
            if part in _PARTS and field.count(".") > 1
            else ServingConfig.model_fields
        )
        return "no such field; there are " + ", ".join(names)
    return str(error["msg"]).removeprefix("Value error, ")
