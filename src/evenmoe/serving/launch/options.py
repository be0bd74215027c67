"""ServeOptions: all that `evenmoe serve` was asked for, out of flags and a configuration file, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evenmoe.errors import ConfigError, check_choice
from evenmoe.evaluation.specs import parse_policy
from evenmoe.placement import read_placement
from evenmoe.serving.config import SchedulingConfig, ServingConfig, read_serving_config, serving_config_of

Engine = Literal["vllm", "transformers"]
ENGINES: tuple[Engine, ...] = ("vllm", "transformers")
_KNOWN_LOADS = (
    "--prior FILE (a token prior, from evenmoe profile MODEL --predictor token_prior), or with --predictor client "
    "where clients send the loads of their requests"
)
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What is served, by what, where, and how.

    port: 0 takes a free one.
    api_key: what clients must send as a bearer token; None: nothing.
    max_model_len: tokens of a prompt and its answer together, at most; None: the model's.
    max_num_seqs: requests that run at once, at most; None: the engine's default.
    shutdown_timeout_s: how long accepted requests may take to finish after a stop was asked for.
    engine_arguments: arguments of vLLM's own, passed on as they are.

    Raises ConfigError for a value that is not allowed or that could not act.
    """

    model: str
    engine: Engine
    serving: ServingConfig = field(default_factory=ServingConfig)
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    expert_parallel: bool = False
    shutdown_timeout_s: float = 60.0
    engine_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, ENGINES)
        check_choice("dtype", self.dtype, DTYPES)
        if not self.model.strip():
            raise ConfigError(
                "model", self.model, "a checkpoint's folder, a name on the Hugging Face Hub, or bundled:text"
            )
        if not self.host.strip():
            raise ConfigError("host", self.host, "an address or a host name, such as 127.0.0.1")
        if not 0 <= self.port <= 65535:
            raise ConfigError("port", self.port, "from 1 to 65535, or 0 for any free one")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api-key", self.api_key, "a text that is not empty")
        for name in ("max_model_len", "max_num_seqs", "tensor_parallel_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(name.replace("_", "-"), value, "a whole number from 1")
        if not self.shutdown_timeout_s > 0:
            raise ConfigError("shutdown-timeout", self.shutdown_timeout_s, "seconds above 0")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine_arguments and not self.engine_arguments[0].startswith("-"):
            raise ConfigError(
                "argument", self.engine_arguments[0], "one MODEL; arguments of vLLM's own come after --"
            )
        if self.expert_parallel and self.tensor_parallel_size == 1:
            raise ConfigError("expert-parallel", True, "with --tensor-parallel-size of 2 or more")
        if self.engine == "vllm":
            return
        for name, value in (
            ("tensor-parallel-size", self.tensor_parallel_size if self.tensor_parallel_size > 1 else None),
            ("arguments after --", self.engine_arguments or None),
        ):
            if value is not None:
                raise ConfigError(name, value, "left out with --engine transformers; only vLLM takes it")

    @property
    def schedules(self) -> bool:
        """Whether a scheduler was asked for; otherwise the engine's own order stays."""
        return "scheduling" in self.serving.model_fields_set

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")


@dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """The flags that change the configuration; None is a flag not given."""

    policy: str | None = None
    gamma: float | None = None
    devices: int | None = None
    placement: Path | None = None
    phases: str | None = None
    min_tokens: int | None = None
    scheduler: str | None = None
    predictor: str | None = None
    prior: Path | None = None
    seed: int | None = None


def resolve_serving(config_file: Path | None, flags: ServingFlags) -> ServingConfig:
    """The configuration of a TOML file, overridden by what flags say.

    A policy or a scheduler named by a flag replaces the file's together with the settings that belong to it alone.
    Raises ConfigError, FileFormatError, FileNotFoundError.
    """
    body = _body_of(config_file)
    routing, scheduling = body.get("routing", {}), body.get("scheduling", {})
    routing = _routing(dict(routing), flags)
    scheduling = _scheduling(dict(scheduling), flags)
    if routing:
        body["routing"] = routing
    if scheduling:
        body["scheduling"] = scheduling
    serving = serving_config_of(body)
    if flags.scheduler == "auto" and serving.scheduling.predictor == "none":
        raise ConfigError("scheduler", "auto", f"given with {_KNOWN_LOADS}; without, it would be fcfs")
    return serving


def check_files(serving: ServingConfig) -> None:
    """Read the files that a configuration names, so that one that is wrong is told before an engine loads.

    Raises FileNotFoundError, FileFormatError, ConfigError for a placement of another number of devices.
    """
    from evenmoe.scheduling.predictors import read_token_prior

    if serving.routing.placement is not None:
        found, asked = read_placement(serving.routing.placement).num_devices, serving.routing.num_devices
        if asked != found:
            raise ConfigError("devices", asked, f"the {found} of {serving.routing.placement}")
    if serving.scheduling.prior is not None:
        read_token_prior(serving.scheduling.prior)


def _body_of(path: Path | None) -> dict[str, Any]:
    """What the file says and no more: a part that it leaves out stays left out."""
    if path is None:
        return {}
    return read_serving_config(path).model_dump(mode="json", exclude_unset=True)


def _routing(routing: dict[str, Any], flags: ServingFlags) -> dict[str, Any]:
    if flags.policy is not None:
        spec = parse_policy(flags.policy)
        routing |= {"policy": spec.name, "options": dict(spec.options)}
        if not spec.takes_gamma:
            routing.pop("gamma", None)
    devices = flags.devices
    if flags.placement is not None and devices is None:
        devices = read_placement(flags.placement).num_devices
    given = {
        "gamma": flags.gamma,
        "num_devices": devices,
        "placement": None if flags.placement is None else str(flags.placement.resolve()),
        "phases": flags.phases,
        "min_tokens": flags.min_tokens,
        "seed": flags.seed,
    }
    return routing | {name: value for name, value in given.items() if value is not None}


def _scheduling(scheduling: dict[str, Any], flags: ServingFlags) -> dict[str, Any]:
    if flags.prior is not None:
        if flags.predictor not in (None, "token-prior"):
            raise ConfigError("prior", str(flags.prior), f"left out with --predictor {flags.predictor}")
        scheduling |= {"predictor": "token-prior", "prior": str(flags.prior.resolve())}
    elif flags.predictor is not None:
        scheduling["predictor"] = flags.predictor
        if flags.predictor != "token-prior":
            scheduling.pop("prior", None)
    if flags.scheduler is not None:
        if flags.scheduler != scheduling.get("strategy", SchedulingConfig().strategy):
            scheduling.pop("options", None)
        scheduling["strategy"] = flags.scheduler
    elif scheduling and "strategy" not in scheduling:
        raise ConfigError("scheduler", None, "a strategy where --prior or --predictor is given")
    if scheduling and flags.seed is not None:
        scheduling["seed"] = flags.seed
    return scheduling
