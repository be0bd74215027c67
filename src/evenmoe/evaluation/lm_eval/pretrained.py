"""The model that the lm-eval model is given, by name or loaded, and the id that it is padded with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from evenmoe.errors import ConfigError
from evenmoe.evaluation.checkpoints import checkpoint_of
from evenmoe.models.loading import Quantization, load


def open_pretrained(
    pretrained: str | nn.Module,
    *,
    dtype: torch.dtype | str,
    quantization: Quantization | None,
    device: str | None,
    trust_remote_code: bool,
) -> tuple[nn.Module, str]:
    """Return the model and its name; device None is the first GPU where there is one, as lm-eval has it.

    Raises ConfigError for options of loading beside a loaded model, and what `load` raises.
    """
    if not isinstance(pretrained, nn.Module):
        model = load(
            checkpoint_of(pretrained),
            dtype=dtype,
            quantization=quantization,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            trust_remote_code=trust_remote_code,
        )
        return model, pretrained
    given = {
        "dtype": dtype != "auto" and dtype,
        "quantization": quantization,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    for option, value in given.items():
        if value:
            raise ConfigError(option, value, "left out: the model was given loaded")
    return pretrained, str(getattr(pretrained, "name_or_path", ""))


def padding_id(tokenizer: Any, given: int | None) -> int:
    """The id that rows are fed once they are done: the one given, else the tokenizer's.

    Raises ConfigError for one that is no id.
    """
    if given is not None and given < 0:
        allowed = "an id of the vocabulary: rows that are done must be fed something"
        raise ConfigError("pad_token_id", given, allowed)
    return int(tokenizer.pad_token_id if given is None else given)
