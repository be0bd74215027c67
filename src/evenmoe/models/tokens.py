"""Tokens: what routing must know about each token of one layer's call. Shape letters: T tokens, B requests (rows)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from evenmoe.errors import ShapeError
from evenmoe.models.batch import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """The tokens that reach one MoE layer. None means: all real, or not known; of decode_T: all are as `decode`."""

    num_tokens: int
    num_real: int
    decode: bool
    real_T: Tensor | None
    row_T: Tensor | None
    device_T: Tensor | None
    image_T: Tensor | None
    ids_T: Tensor | None
    group_T: Tensor | None
    decode_T: Tensor | None = None

    def of_phase(self, *, decode: bool) -> Tokens:
        """Return the same tokens, where both phases are among them with those of the other one as if padding."""
        if self.decode_T is None:
            return self
        of_phase = dataclasses.replace(self, decode=decode, decode_T=None)
        return of_phase._only(self.decode_T if decode else ~self.decode_T)

    def of_rows_with(self, least: int) -> Tokens:
        """Return the same tokens, with those of rows that have fewer than `least` real ones as if padding."""
        if self.row_T is None or self.num_tokens == 0 or least <= 1:
            return self
        row_T = self.row_T if self.real_T is None else self.row_T[self.real_T]
        count_B = torch.bincount(row_T, minlength=int(self.row_T.max()) + 1)
        long_B = (count_B >= least) | (count_B == 0)
        return self if bool(long_B.all()) else self._only(long_B[self.row_T])

    def _only(self, some_T: Tensor) -> Tokens:
        real_T = some_T if self.real_T is None else some_T & self.real_T
        return dataclasses.replace(self, num_real=int(real_T.sum()), real_T=real_T)

    def subset(self, index: Tensor) -> Tokens:
        """Return the tokens at `index`, for layers that only some of the tokens reach."""
        real_T = _take(self.real_T, index)
        return Tokens(
            num_tokens=index.shape[0],
            num_real=index.shape[0] if real_T is None else int(real_T.sum()),
            decode=self.decode,
            real_T=real_T,
            row_T=_take(self.row_T, index),
            device_T=_take(self.device_T, index),
            image_T=_take(self.image_T, index),
            ids_T=_take(self.ids_T, index),
            group_T=_take(self.group_T, index),
            decode_T=_take(self.decode_T, index),
        )


def tokens_of(
    batch: Batch,
    num_tokens: int,
    device_of_row_B: Tensor | None,
    groups_of_row_BX: Tensor | None,
    device: torch.device,
) -> Tokens:
    """Return the tokens of a layer's call within a batch, row by row.

    If the call does not have the batch's tokens, each row has as many as the next, all of them real. The groups that
    a row is counted in are one, or those of its text and of its image tokens.
    Raises ShapeError where the latter are asked for and it is not known which tokens are image tokens.
    """
    same = num_tokens == batch.num_tokens
    real_T = batch.real_T.to(device) if same and batch.real_T is not None else None
    image_T = batch.image_T.to(device) if same and batch.image_T is not None else None
    ids_T = batch.ids_T.to(device) if same and batch.ids_T is not None else None
    decode_T = batch.decode_T.to(device) if same and batch.decode_T is not None else None
    row_T = batch.row_of_token(num_tokens).to(device)
    return Tokens(
        num_tokens=num_tokens,
        num_real=num_tokens if real_T is None else int(real_T.sum()),
        decode=batch.decode,
        real_T=real_T,
        row_T=row_T,
        device_T=None if device_of_row_B is None else device_of_row_B.to(device)[row_T],
        image_T=image_T,
        ids_T=ids_T,
        group_T=None if groups_of_row_BX is None else _group_of_token(groups_of_row_BX, row_T, image_T),
        decode_T=decode_T,
    )


def _group_of_token(groups_of_row_BX: Tensor, row_T: Tensor, image_T: Tensor | None) -> Tensor:
    groups_TX = groups_of_row_BX.to(row_T.device)[row_T]
    if groups_TX.shape[1] == 1:
        return groups_TX[:, 0]
    if image_T is None:
        raise ShapeError(
            f"which of {row_T.shape[0]} tokens are image tokens is not known, so they cannot be counted apart: "
            "give the model input_ids, or mm_token_type_ids"
        )
    return groups_TX.gather(1, image_T.long()[:, None])[:, 0]


def unknown_tokens(num_tokens: int) -> Tokens:
    """Return tokens of which nothing is known but their number."""
    return Tokens(
        num_tokens=num_tokens,
        num_real=num_tokens,
        decode=False,
        real_T=None,
        row_T=None,
        device_T=None,
        image_T=None,
        ids_T=None,
        group_T=None,
    )


def _take(values_T: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values_T is None else values_T.index_select(0, index.to(values_T.device))
