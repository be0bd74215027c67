"""What the engine was started with: the part of `--additional-config` that is ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from evenmoe.errors import ConfigError
from evenmoe.serving.config import ServingConfig, read_serving_config, serving_config_of

KEY = "evenmoe"


def settings_of(vllm_config: Any) -> ServingConfig | None:
    """The configuration under "evenmoe" in `additional_config`: an object, or the path of a TOML file.

    None where there is none: then nothing of vLLM is changed. Raises ConfigError and FileFormatError, which stop the
    engine's start.
    """
    additional = getattr(vllm_config, "additional_config", None)
    if not isinstance(additional, Mapping) or KEY not in additional:
        return None
    given = additional[KEY]
    if isinstance(given, str):
        return _read(given)
    if not isinstance(given, Mapping):
        raise ConfigError(KEY, given, "an object, or the path of a TOML file")
    return serving_config_of(given)


@lru_cache(maxsize=1)
def _read(path: str) -> ServingConfig:
    """One process reads one file once, however many layers ask."""
    return read_serving_config(path)
