"""ServerOptions: what is served, where, and how much at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from evenmoe.errors import ConfigError, FileFormatError, check_choice
from evenmoe.serving.config import ServingConfig, serving_config_of
from evenmoe.simulation.checks import check_int, check_number

DTYPES = ("auto", "float32", "bfloat16", "float16")
BATCHED_TOKENS, MOST_BATCHED_TOKENS = 512, 4096
MOST_CACHE_TOKENS = 65_536
"""The default cache's size, at most: positions of all running requests together."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What `run_server` is asked for.

    model: a checkpoint's folder, a name on the Hugging Face Hub, or "bundled:text". served_name: what clients call it;
    None: as it is called here.
    schedules: False keeps transformers' own order, first come, first served, whatever `serving.scheduling` says.
    port: 0 takes a free one. api_key: what clients must send as a bearer token; None: nothing.
    max_model_len: tokens of a prompt and its answer together, at most; None: the model's positions.
    max_num_seqs: requests that run at once.
    max_num_batched_tokens: of a step; longer prompts are cut, but refused where the policy isolates requests. None:
    BATCHED_TOKENS, and there as many as the longest prompt, at most MOST_BATCHED_TOKENS.
    cache_tokens: positions that the KV cache holds; None: max_num_seqs whole requests, at most MOST_CACHE_TOKENS.
    max_waiting: open requests from which on new ones are refused with 429.
    shutdown_timeout_s: how long accepted requests may take to finish after a stop was asked for.
    seed: of the draws of requests that bring no seed.

    Raises ConfigError for a value that is not allowed.
    """

    model: str
    served_name: str | None = None
    serving: ServingConfig = field(default_factory=ServingConfig)
    schedules: bool = True
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    dtype: str = "auto"
    device: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    cache_tokens: int | None = None
    max_waiting: int = 4096
    shutdown_timeout_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        if not self.model.strip():
            raise ConfigError(
                "model", self.model, "a checkpoint's folder, a name on the Hub, or bundled:text"
            )
        check_int("port", self.port, 0)
        if self.port > 65_535:
            raise ConfigError("port", self.port, "from 0 to 65535")
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "cache_tokens"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        check_int("max_waiting", self.max_waiting, 1)
        check_int("seed", self.seed, 0)
        check_number("shutdown_timeout_s", self.shutdown_timeout_s, 0, above=True)

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.served_name or self.model


def read_options(path: str | Path, api_key: str | None = None) -> ServerOptions:
    """Read the options from a JSON file, in which "serving" is a ServingConfig as JSON says it.

    Raises FileNotFoundError; FileFormatError for a file that is no JSON object; ConfigError as ServerOptions, for an
    unknown field, and where the file has the API key, which does not belong there.
    """
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path} is not a JSON file: {error}") from error
    return options_of(body, api_key)


def options_of(body: object, api_key: str | None = None) -> ServerOptions:
    """The options that parsed JSON says; see `read_options`."""
    names = [one.name for one in fields(ServerOptions) if one.name != "api_key"]
    if not isinstance(body, Mapping) or "model" not in body:
        raise FileFormatError(f"the options are no object with a model and any of {', '.join(names)}")
    values: dict[str, Any] = dict(body)
    for name, value in values.items():
        if name not in names:
            raise ConfigError(name, value, "no such field; there are " + ", ".join(names))
    if "serving" in values:
        values["serving"] = serving_config_of(values["serving"])
    return ServerOptions(**values, api_key=api_key or None)
