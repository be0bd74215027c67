"""The batch scheduler's settings, and the two files they are read from: CAPS's JSON and our TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError, check_choice
from evenmoe.scheduling.assignment import ASSIGN_METHODS, AssignMethod
from evenmoe.scheduling.selecting import DEFAULT_OPTIONS, STRATEGIES, Options

SUFFIXES = (".json", ".toml")


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """When a batch is formed, of whom, and how. The defaults of the first four are CAPS's.

    max_batch_size: requests of a batch, at most.
    window_size: the oldest requests that a batch is picked from.
    min_batch_trigger: a batch is due as soon as this many wait ...
    scheduling_interval_ms: ... or when the oldest has waited this long.
    token_budget: tokens of a batch, at most; None: no limit.
    max_passed_over: how many batches may take a younger request instead of this one; then it goes before all others.
    strategy: one of STRATEGIES.
    num_layers: L, where a load vector is L layers one after the other.
    num_devices: D, over which the requests of a batch are shared out.
    assign: by which method each request joins one of the D shares.
    seed: of the strategies and methods that draw.
    options: settings of single strategies.
    Raises ConfigError.
    """

    max_batch_size: int = 8
    window_size: int = 32
    min_batch_trigger: int = 16
    scheduling_interval_ms: float = 100.0
    token_budget: int | None = None
    max_passed_over: int = 16
    strategy: str = "auto"
    num_layers: int = 1
    num_devices: int = 1
    assign: AssignMethod = "balanced"
    seed: int = 0
    options: Options = DEFAULT_OPTIONS

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "window_size", "min_batch_trigger", "num_layers", "num_devices"):
            _check_int(name, getattr(self, name), 1)
        for name in ("max_passed_over", "seed"):
            _check_int(name, getattr(self, name), 0)
        if self.token_budget is not None:
            _check_int("token_budget", self.token_budget, 1)
        if self.window_size < self.max_batch_size:
            raise ConfigError(
                "window_size", self.window_size, f"at least max_batch_size, {self.max_batch_size}"
            )
        interval = self.scheduling_interval_ms
        is_number = isinstance(interval, int | float) and not isinstance(interval, bool)
        if not is_number or not 0 <= interval < float("inf"):
            raise ConfigError("scheduling_interval_ms", interval, "a number of milliseconds of at least 0")
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("assign", self.assign, ASSIGN_METHODS)
        if not isinstance(self.options, Options):
            raise ConfigError("options", self.options, "Options")


@dataclass(frozen=True, kw_only=True)
class SchedulingConfig:
    """A configuration file: the model that is served, and the scheduler. Raises ConfigError."""

    model_name: str = ""
    quantization: str | None = None
    num_experts: int | None = None
    top_k_experts: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str):
            raise ConfigError("model_name", self.model_name, "a text")
        if not isinstance(self.quantization, str | None):
            raise ConfigError("quantization", self.quantization, "a text, or null")
        for name in ("num_experts", "top_k_experts"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 1)
        if self.num_experts is not None and (self.top_k_experts or 0) > self.num_experts:
            raise ConfigError("top_k_experts", self.top_k_experts, f"at most num_experts, {self.num_experts}")


def read_config(path: str | Path) -> SchedulingConfig:
    """Read `.json` or `.toml`: {model_name, quantization, num_experts, top_k_experts, scheduler: {...}}.

    `scheduler` has the fields of SchedulerConfig, `options` in it those of Options. What is left out has its default.
    Raises FileNotFoundError; FileFormatError for a file that cannot be parsed; ConfigError for another suffix, a field
    that there is not, or a value that is not allowed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError("scheduler config", str(path), "a name that ends in " + " or ".join(SUFFIXES))
    text = path.read_text(encoding="utf-8")
    try:
        body = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise FileFormatError(f"{path} is not a {path.suffix[1:].upper()} file: {error}") from error
    return config_of(body)


def config_of(body: Any) -> SchedulingConfig:
    """The configuration that parsed JSON or TOML says. Raises ConfigError."""
    values = _known("", body, SchedulingConfig)
    if "scheduler" in values:
        scheduler = _known("scheduler", values["scheduler"], SchedulerConfig)
        if "options" in scheduler:
            options = _known("scheduler.options", scheduler["options"], Options)
            scheduler["options"] = _made("scheduler.options.", Options, options)
        values["scheduler"] = _made("scheduler.", SchedulerConfig, scheduler)
    made: SchedulingConfig = _made("", SchedulingConfig, values)
    return made


def _known(name: str, body: Any, kind: type) -> dict[str, Any]:
    """A copy of `body`, checked to be an object with no field that `kind` lacks."""
    names = [one.name for one in fields(kind)]
    if not isinstance(body, Mapping):
        raise ConfigError(name or "scheduler config", body, "an object with any of " + ", ".join(names))
    for key, value in body.items():
        if key not in names:
            raise ConfigError(
                f"{name}.{key}" if name else key, value, "no such field; there are " + ", ".join(names)
            )
    return dict(body)


def _made(prefix: str, kind: type, values: dict[str, Any]) -> Any:
    """`kind(**values)`, whose errors name the field from the top of the file."""
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(prefix + error.field, error.value, error.allowed) from error


def _check_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(name, value, f"an integer of at least {least}")
