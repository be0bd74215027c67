"""The model in VLMEvalKit's list of models, under a name that stands for one checkpoint under one policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evenmoe.evaluation.checkpoints import weights_mark
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.vision.options import config_of
from evenmoe.evaluation.vision.vlmevalkit.harness import load_vlmeval

OWN_OPTIONS = ("prompts", "max_new_tokens", "device", "report")


def register(name: str | None = None, **options: Any) -> str:
    """Enter a model into `vlmeval.config.supported_VLM`; returns its name there, as `--model` of VLMEvalKit takes it.

    name: what that name begins with; None: the last part of the checkpoint's. Options: pretrained (a folder, a name on
    the Hub, "bundled:vlm"), policy ("token_drop:keep=random"), gamma, devices, scope, level, isolation, phases,
    min_tokens, batch_size, dtype, quantization, seed; prompts, max_new_tokens, device, report as `EvenMoEVLM` has.

    The model is loaded when VLMEvalKit asks for it. Raises ConfigError for an option that is unknown or not allowed,
    MissingExtraError without VLMEvalKit.
    """
    own = {key: options.pop(key) for key in OWN_OPTIONS if key in options}
    config = config_of(options)
    load_vlmeval()
    from vlmeval.config import supported_VLM

    from evenmoe.evaluation.vision.vlmevalkit.wrapper import EvenMoEVLM

    full = model_name(config, {key: value for key, value in own.items() if key != "report"}, name)
    supported_VLM[full] = partial(EvenMoEVLM, config, **own)
    return full


def model_name(config: EvalConfig, own: Mapping[str, Any], name: str | None = None) -> str:
    """Return checkpoint, policy and a digest of all that the answers depend on: "mine-token_drop-gamma1-4f1d22ab".

    VLMEvalKit keeps answers by this name and takes up those that it finds: another setting, another checkpoint and
    other weights under the same path must each be another name.
    """
    settings = config.model_dump(mode="json", exclude={"tasks", "suite", "limit"})
    setting = json.dumps([settings, dict(own), weights_mark(config.model)], sort_keys=True)
    short = name or Path(config.model).name.replace(":", "-")
    key = config.key.replace("/", "_")  # an option may be a path, and the name is part of VLMEvalKit's paths
    return f"{short}-{key}-{hashlib.sha256(setting.encode()).hexdigest()[:8]}"
