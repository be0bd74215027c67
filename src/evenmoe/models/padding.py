"""Padding: which positions of a batch hold real tokens. Shape letters: B requests (rows), S positions of a forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.errors import ShapeError

_IMAGE_NAMES = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Token ids that a model's configuration names.

    pad: the padding id, or None. begin, end: ids that begin (bos) or end (eos) a text. image: image and video
        placeholders, which the configuration, or one that is nested in it, names.
    """

    pad: int | None
    begin: tuple[int, ...]
    end: tuple[int, ...]
    image: tuple[int, ...]

    @staticmethod
    def of(model: nn.Module, pad_token_id: int | None) -> SpecialTokens:
        """Read the ids from the model's configuration; `pad_token_id` replaces its padding id if given."""
        configs = _configs(model)
        pads = _ids(configs, "pad_token_id")
        return SpecialTokens(
            pad=pad_token_id if pad_token_id is not None else next(iter(pads), None),
            begin=_ids(configs, "bos_token_id"),
            end=_ids(configs, "eos_token_id"),
            image=_ids(_nested(configs[:1]), *_IMAGE_NAMES),
        )


def real_positions(
    mask: Tensor | None, input_ids: Tensor | None, tokens: SpecialTokens, num_positions: int, decode: bool
) -> Tensor | None:
    """Return [B, S] bool, False at padding; None if every position is real as far as can be known.

    A 2-dimensional attention mask decides where there is one: its last S columns, since a forward with a KV cache
    brings the mask of all positions. Otherwise the padding id does, in leading and trailing runs of a row only (see
    `_padding_runs` for an id that also begins or ends texts). In a decode step a row that is fed the padding id has
    finished.
    """
    if mask is not None:
        if mask.shape[1] < num_positions:
            raise ShapeError(f"attention_mask has {mask.shape[1]} columns for {num_positions} positions")
        real_BS: Tensor | None = mask[:, mask.shape[1] - num_positions :].bool()
    elif input_ids is not None and tokens.pad is not None and not decode:
        real_BS = ~_padding_runs(
            input_ids == tokens.pad, begins=tokens.pad in tokens.begin, ends=tokens.pad in tokens.end
        )
    else:
        real_BS = None
    if decode and input_ids is not None and tokens.pad is not None:
        running_BS = input_ids != tokens.pad
        real_BS = running_BS if real_BS is None else real_BS & running_BS
    return real_BS


def _padding_runs(pad_BS: Tensor, begins: bool, ends: bool) -> Tensor:
    """Return the leading and trailing runs of padding.

    A padding id that also begins texts leaves the last of a leading run real, one that ends them the first of a
    trailing run; not so in a row of nothing else, unless it is that one token.
    """
    if pad_BS.shape[1] == 1 and (begins or ends):
        return torch.zeros_like(pad_BS)
    leading_BS = pad_BS.long().cumprod(1).bool()
    trailing_BS = pad_BS.flip(1).long().cumprod(1).flip(1).bool()
    if begins:
        leading_BS = leading_BS & _shift_left(leading_BS)
    if ends:
        trailing_BS = trailing_BS & _shift_left(trailing_BS.flip(1)).flip(1)
    return leading_BS | trailing_BS | pad_BS.all(1, keepdim=True)


def _shift_left(values_BS: Tensor) -> Tensor:
    return torch.cat([values_BS[:, 1:], torch.zeros_like(values_BS[:, :1])], dim=1)


def _configs(model: nn.Module) -> list[object]:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    return [c for c in (config, text, getattr(model, "generation_config", None)) if c is not None]


def _nested(configs: list[object]) -> list[object]:
    """Return the configurations and those nested in them, such as the thinker's of an omni model."""
    found = list(configs)
    for config in configs:
        names = getattr(type(config), "sub_configs", {})
        found += _nested([part for name in names if (part := getattr(config, name, None)) is not None])
    return found


def _ids(configs: list[object], *names: str) -> tuple[int, ...]:
    found: list[int] = []
    for config in configs:
        for name in names:
            value = getattr(config, name, None)
            found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return tuple(dict.fromkeys(found))
