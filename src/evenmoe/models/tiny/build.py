"""Build a tiny random model of one architecture: no download, no network, milliseconds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.models.tiny.defaults import MEDIA_DEFAULTS, NUM_EXPERTS, TEXT_DEFAULTS
from evenmoe.models.tiny.table import TINY_CONFIGS

_HEADS = ("IMAGE_TEXT_TO_TEXT", "CAUSAL_LM", "TOKEN_CLASSIFICATION")
_MEDIA = re.compile(r"(vision|audio|sam|encoder)_config")
_ROUTER = re.compile(r"Router$|Gating$|MoEV1Gate$")
ROUTER_LOGIT_STD = 3.0
CORRECTION_BIAS_STD = 0.1


def is_installed(model_type: str) -> bool:
    """Whether the installed transformers has this architecture."""
    return model_type in CONFIG_MAPPING


def tiny_config(model_type: str, **overrides: Any) -> PreTrainedConfig:
    """The tiny configuration of `model_type`: common sizes, the table's row, then `overrides`.

    A nested configuration is overridden by a mapping (`text_config={"num_experts": 16}`).
    Raises ConfigError for an unknown name or field, UnsupportedModelError if this transformers lacks it.
    """
    if model_type not in TINY_CONFIGS:
        raise ConfigError("model_type", model_type, "one of " + ", ".join(sorted(TINY_CONFIGS)))
    if not is_installed(model_type):
        raise UnsupportedModelError(f"{model_type} is not in this transformers version")
    row = _merge(TINY_CONFIGS[model_type], overrides)
    return _build_config(CONFIG_MAPPING[model_type], row, TEXT_DEFAULTS, model_type)


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """A tiny random model of `model_type`: float32, eval mode, 2 layers, 8 experts, top-2, sharp routers.

    The weights depend on `seed` alone; the global generator is left as it was. Raises as `tiny_config` does.
    """
    config = tiny_config(model_type, **overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = _model_class(config)._from_config(config, dtype=torch.float32)
        _sharpen_routers(model)
    return model.eval()


def _merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in extra.items():
        old = merged.get(name)
        merged[name] = (
            _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _build_config(
    cls: type[PreTrainedConfig], row: Mapping[str, Any], defaults: Mapping[str, Any], where: str
) -> PreTrainedConfig:
    names = {field.name for field in dataclasses.fields(cls)}
    extra = {name[1:]: value for name, value in row.items() if name.startswith("+")}
    row = {name: value for name, value in row.items() if not name.startswith("+")}
    if unknown := set(row) - names:
        raise ConfigError(where, ", ".join(sorted(unknown)), f"a field of {cls.__name__}")
    values = {name: value for name, value in defaults.items() if name in names} | row
    for name, sub_cls in cls.sub_configs.items():
        if values.get(name, {}) is None:
            continue
        sub_row = dict(values.get(name, {}))
        sub_type = sub_row.pop("model_type", None)
        if sub_cls is AutoConfig:
            sub_cls = CONFIG_MAPPING[sub_type]
        sub_defaults = MEDIA_DEFAULTS if _MEDIA.fullmatch(name) else TEXT_DEFAULTS
        values[name] = _build_config(sub_cls, sub_row, sub_defaults, f"{where}.{name}")
    return cls(**values, **extra)


def _model_class(config: PreTrainedConfig) -> Any:
    for head in _HEADS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING")
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise UnsupportedModelError(
        f"{config.model_type} has no language-model class in this transformers version"
    )


def _sharpen_routers(model: nn.Module) -> None:
    """Give routers the spread that training gives them, so that loads differ and every part of a score counts."""
    for module in model.modules():
        if not _ROUTER.search(type(module).__name__):
            continue
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if "bias" in name:
                tensor.data.normal_(0.0, CORRECTION_BIAS_STD)
            elif "per_expert_scale" in name:
                tensor.data.uniform_(0.5, 2.0)
            elif "tid2eid" in name:  # a fixed table, token id -> experts
                tensor.data.copy_(torch.rand(tensor.shape[0], NUM_EXPERTS).argsort(1)[:, : tensor.shape[1]])
            elif tensor.dim() == 2 and tensor.is_floating_point():
                tensor.data.normal_(0.0, ROUTER_LOGIT_STD / tensor.shape[1] ** 0.5)
