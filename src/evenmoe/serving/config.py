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
from evenmoe.scheduling import STRATEGIES


def _infinity(gamma: object) -> object:
    return math.inf if gamma == "inf" else gamma


def _gamma_as_json(gamma: float) -> float | str:
    return "inf" if math.isinf(gamma) else gamma


Gamma = Annotated[float, BeforeValidator(_infinity), Field(gt=0), PlainSerializer(_gamma_as_json)]
"""A capacity factor; "inf" in JSON and TOML is no limit."""


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
    def _policy_exists(self) -> RoutingConfig:
        self.build()
        return self

    def build(self) -> Policy:
        """The routing policy. Raises ConfigError for a name or an option that there is not."""
        options: dict[str, Any] = dict(self.options)
        if "gamma" in option_names(self.policy)[0]:
            options["gamma"] = self.gamma
        elif not math.isinf(self.gamma):
            raise ConfigError("gamma", self.gamma, f"left out with {self.policy}, which has no capacity")
        return make_policy(self.policy, **options)


class SchedulingConfig(_Part):
    """Which waiting requests join a step."""

    strategy: str = "auto"
    window_size: Annotated[int, Field(ge=1)] = 64
    """The oldest waiting requests that a choice is made among."""
    max_passed_over: Annotated[int, Field(ge=0)] = 16
    """Steps that may admit a younger request instead of this one; then it goes before all others."""
    predictor: Literal["token-prior", "client", "none"] = "none"
    """Where a request's expected load comes from; "client": from the request itself, else none."""
    prior: str | None = None
    """The token prior's file."""
    feedback: bool = True
    """Correct predictions by the loads that the worker observes."""
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


class MetricsConfig(_Part):
    """What is told about loads. Which experts a request used nearly reveals its text."""

    enabled: bool = True
    least_requests: Annotated[int, Field(ge=1)] = 8
    """Counters move only by sums over at least this many requests."""
    interval_s: Annotated[float, Field(gt=0)] = 1.0
    """How often counters move, at most."""
    per_request_loads: bool = False
    """Give the loads of single requests out of the process, to the scheduler of a distributed engine and to logs."""


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
