"""Batch: the requests of the forward that is running, captured from the arguments of the model's own call.

Shape letters: T tokens, B requests (rows), S positions, D devices.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.errors import ShapeError
from evenmoe.models.padding import SpecialTokens, real_positions

_VISUAL_TYPES = (1, 2)
"""Image and video in transformers' mm_token_type_ids; 0 is text, 3 is audio, which counts as text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What one forward of a model was given, as far as routing must know it; its tokens are counted row by row.

    decode: whether this is one new token per row on a filled KV cache.
    decode_T: True at new tokens, False at those of prompts, where a batch holds both; None: all are as `decode` says.
    real_T: False at padding; None if all is real. image_T: True at image tokens of a prompt; None if unknown.
    ids_T: the token ids; None where the call brings embeddings.
    occupied_B: rows with any real token, now or in their KV cache; None: all.
    length_B: tokens of each row where requests are packed one after the other; None: all rows are alike.
    """

    num_rows: int
    num_tokens: int
    decode: bool
    real_T: Tensor | None = None
    image_T: Tensor | None = None
    ids_T: Tensor | None = None
    occupied_B: Tensor | None = None
    length_B: Tensor | None = None
    decode_T: Tensor | None = None

    def row_of_token(self, num_tokens: int) -> Tensor:
        """Return [T]: the row of each token, for as many tokens as a layer was given (a multiple of the rows)."""
        if self.length_B is None or num_tokens != self.num_tokens:
            return torch.arange(self.num_rows).repeat_interleave(num_tokens // self.num_rows)
        row_T = torch.full((num_tokens,), self.num_rows - 1)  # whatever follows the last request is padding
        listed_T = torch.arange(self.num_rows).repeat_interleave(self.length_B.cpu())
        row_T[: listed_T.shape[0]] = listed_T
        return row_T


class CallReader:
    """Reads a Batch from the arguments of one module's forward, given by position or by name."""

    def __init__(self, module: nn.Module, tokens: SpecialTokens) -> None:
        self._names = [name for name in inspect.signature(module.forward).parameters if name != "self"]
        self._tokens = tokens

    @torch.no_grad()
    def read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], mask_BS: Tensor | None = None
    ) -> Batch | None:
        """Return the batch, or None if the call has no [B, S] input of ids or embeddings.

        mask_BS: what is padding where the call itself brings no mask. Raises ShapeError if it does not fit the call.
        """
        given = dict(zip(self._names, args, strict=False)) | dict(kwargs)
        ids, embeds = _tensor(given.get("input_ids"), 2), _tensor(given.get("inputs_embeds"), 3)
        inputs = ids if ids is not None else embeds
        if inputs is None:
            return self._read_canvas(_tensor(given.get("decoder_input_ids"), 2))
        if inputs.shape[0] * inputs.shape[1] == 0:
            return None
        rows, positions = inputs.shape[:2]
        image_BS = self._image_positions(ids, given)
        image_T = None if image_BS is None else image_BS.reshape(-1)
        ids_T = None if ids is None else ids.reshape(-1)
        ends_B = _tensor(given.get("cu_seq_lens_q"), 1)
        if rows == 1 and ends_B is not None and ends_B.shape[0] > 1:
            return _packed(positions, ends_B.diff(), image_T, ids_T, given)
        mask = _tensor(given.get("attention_mask"), 2)
        mask = mask if mask is not None and mask.shape[0] == rows else None
        if mask is None and mask_BS is not None:
            mask = _fitting(mask_BS, inputs)
        decode = positions == 1 and _has_past(given, mask)
        real_BS = real_positions(mask, ids, self._tokens, positions, decode)
        return Batch(
            num_rows=rows,
            num_tokens=rows * positions,
            decode=decode,
            real_T=None if real_BS is None or bool(real_BS.all()) else real_BS.reshape(-1),
            image_T=torch.zeros_like(image_T) if decode and image_T is not None else image_T,
            ids_T=ids_T,
            occupied_B=_occupied(mask, real_BS, decode),
        )

    def _read_canvas(self, canvas: Tensor | None) -> Batch | None:
        """Return the batch of a text that is denoised all at once; any of its tokens may hold any id meanwhile."""
        if canvas is None or canvas.numel() == 0:
            return None
        image_T = torch.zeros(canvas.numel(), dtype=torch.bool, device=canvas.device)
        return Batch(
            num_rows=canvas.shape[0],
            num_tokens=canvas.numel(),
            decode=False,
            image_T=image_T if self._tokens.image else None,
            ids_T=canvas.reshape(-1),
        )

    def _image_positions(self, ids: Tensor | None, given: Mapping[str, Any]) -> Tensor | None:
        """Return [B, S]: by the placeholders among the ids, else by the mask beside embeddings; None: unknown."""
        if not self._tokens.image:
            return None
        if ids is not None:
            return torch.isin(ids, torch.tensor(self._tokens.image, device=ids.device))
        types, embeds = _tensor(given.get("mm_token_type_ids"), 2), _tensor(given.get("inputs_embeds"), 3)
        if types is None or embeds is None or types.shape != embeds.shape[:2]:
            return None
        return torch.isin(types, torch.tensor(_VISUAL_TYPES, device=types.device))


def _packed(
    num_tokens: int,
    length_B: Tensor,
    image_T: Tensor | None,
    ids_T: Tensor | None,
    given: Mapping[str, Any],
) -> Batch:
    """Requests one after the other in a single row, as continuous batching and flattened batches bring them."""
    num_real = int(length_B.sum())
    decode_T = _new_tokens(num_tokens, length_B, _tensor(given.get("position_ids"), 2))
    decode = bool(decode_T[:num_real].all())
    return Batch(
        num_rows=length_B.shape[0],
        num_tokens=num_tokens,
        decode=decode,
        decode_T=None if decode or not bool(decode_T.any()) else decode_T,
        real_T=torch.arange(num_tokens, device=length_B.device) < num_real if num_real < num_tokens else None,
        image_T=image_T,
        ids_T=ids_T,
        length_B=length_B,
    )


def _new_tokens(num_tokens: int, length_B: Tensor, places: Tensor | None) -> Tensor:
    """Return [T]: the tokens of rows that are a single one and not their request's first.

    A prompt that is fed in parts, the last of which is one token, cannot be told from a new token.
    """
    decode_T = torch.zeros(num_tokens, dtype=torch.bool, device=length_B.device)
    if places is not None:
        single = length_B.cumsum(0)[length_B == 1] - 1
        decode_T[single] = places.reshape(-1).to(single.device)[single] > 0
    return decode_T


def _fitting(mask_BS: Tensor, inputs: Tensor) -> Tensor:
    if mask_BS.shape != inputs.shape[:2]:
        raise ShapeError(f"a mask {list(mask_BS.shape)} does not fit a batch of {list(inputs.shape[:2])}")
    return mask_BS.to(inputs.device)


def _tensor(value: object, num_dimensions: int) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.dim() == num_dimensions else None


def _has_past(given: Mapping[str, Any], mask: Tensor | None) -> bool:
    if mask is not None and mask.shape[1] > 1:
        return True
    cache = given.get("past_key_values")
    length = getattr(cache, "get_seq_length", None)
    try:
        return length is not None and int(length()) > 0
    except (ValueError, IndexError, AttributeError):  # a cache of recurrent states alone has no length
        return cache is not None


def _occupied(mask: Tensor | None, real_BS: Tensor | None, decode: bool) -> Tensor | None:
    if mask is not None:
        return mask.bool().any(1)
    return None if real_BS is None or decode else real_BS.any(1)


def rows_to_devices(num_rows: int, occupied_B: Tensor | None, num_devices: int) -> Tensor:
    """Return [B]: the device of each row; rows stay whole, contiguous and as even as possible over the devices.

    The first (rows mod D) devices hold one more. Rows of nothing but padding take no share, so that adding one moves
    no other.
    """
    occupied_B = torch.ones(num_rows, dtype=torch.bool) if occupied_B is None else occupied_B
    rank_B = occupied_B.long().cumsum(0) - 1
    small, larger = divmod(int(occupied_B.sum()), num_devices)
    edge = larger * (small + 1)
    after_edge_B = larger + (rank_B - edge).div(max(small, 1), rounding_mode="floor")
    device_B = torch.where(rank_B < edge, rank_B.div(small + 1, rounding_mode="floor"), after_edge_B)
    return device_B.clamp(0, num_devices - 1)
