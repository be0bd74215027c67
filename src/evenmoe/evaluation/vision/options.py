"""The options of a harness's model `evenmoe` as the configuration of an evaluation: the same words in every harness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.specs import PolicySpec, parse_policy

FIELD_OF = {
    "pretrained": "model",
    "policy": "policy",
    "gamma": "gamma",
    "devices": "num_devices",
    "scope": "scope",
    "level": "level",
    "isolation": "isolation",
    "phases": "phases",
    "min_tokens": "min_tokens",
    "batch_size": "batch_size",
    "dtype": "dtype",
    "quantization": "quantization",
    "seed": "seed",
}
"""Each option and the field of EvalConfig that it sets."""


def config_of(options: Mapping[str, Any], prefix: str = "") -> EvalConfig:
    """Read options given by name; those left out keep EvalConfig's defaults. The configuration names no tasks.

    policy: as on the command line, "token_drop:modality=image-first", in quotes where a harness splits at commas.
    prefix: what the names of options begin with in error messages. Raises ConfigError naming an option that is not
    known, is missing, or has a value that is not allowed.
    """
    for name in options:
        if name not in FIELD_OF:
            raise ConfigError(prefix + name, options[name], f"an option out of: {', '.join(FIELD_OF)}")
    if "pretrained" not in options:
        raise ConfigError(f"{prefix}pretrained", None, "a folder, a name on the Hub, or bundled:vlm")
    values = {FIELD_OF[name]: value for name, value in options.items()}
    values["model"] = _unquoted(values["model"])
    values["policy"] = _policy(values.get("policy", "baseline"))
    if isinstance(values.get("batch_size"), str) and not values["batch_size"].isdecimal():
        raise ConfigError(
            f"{prefix}batch_size", values["batch_size"], "a number: what shares a batch changes the scores"
        )
    try:
        config = EvalConfig(tasks=(), **values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = next((option for option, own in FIELD_OF.items() if own == field), field)
        raise ConfigError(prefix + name, first["input"], first["msg"]) from error
    config.build_policy()
    return config


def _policy(value: object) -> PolicySpec:
    return value if isinstance(value, PolicySpec) else parse_policy(_unquoted(value))


def _unquoted(value: object) -> str:
    text = str(value).strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
