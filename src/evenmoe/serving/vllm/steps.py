"""Steps: which requests' tokens the engine's running step has, as routing must know it.

Shape letters: T tokens of the step, B requests in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from evenmoe.models.batch import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The requests of one step, in the order of their tokens.

    context_B: tokens that each request has in the KV cache already; length_B: how many it has in this step, at least
    one. num_rows: the rows that the model is run on: those tokens, and after them what an engine fills a batch up with.
    """

    context_B: tuple[int, ...]
    length_B: tuple[int, ...]
    num_rows: int

    @cached_property
    def num_tokens(self) -> int:
        """Tokens that the scheduler handed out."""
        return sum(self.length_B)

    @cached_property
    def new_B(self) -> list[bool]:
        """Which requests are in decode."""
        return [is_new_token(*row) for row in zip(self.context_B, self.length_B, strict=True)]

    @cached_property
    def batch(self) -> Batch:
        """The requests as routing takes them."""
        num_real, num_rows = self.num_tokens, self.num_rows
        lengths = torch.tensor(self.length_B, dtype=torch.long)
        decode = all(self.new_B)
        decode_T = None
        if any(self.new_B) and not decode:
            decode_T = torch.zeros(num_rows, dtype=torch.bool)
            decode_T[:num_real] = torch.tensor(self.new_B).repeat_interleave(lengths)
        return Batch(
            num_rows=len(self.length_B),
            num_tokens=num_rows,
            decode=decode,
            decode_T=decode_T,
            real_T=None if num_real == num_rows else torch.arange(num_rows) < num_real,
            length_B=lengths,
        )


def is_new_token(context: int, length: int) -> bool:
    """Whether a request's single token follows others that are in the KV cache: then it is in decode.

    A prompt's last token, alone in its step, cannot be told from a new one.
    """
    return length == 1 and context > 0


def step_of(metadata: object, num_rows: int) -> Step | None:
    """Return the step that an engine's attention metadata tells of; None where there is none (profiling, warm-up).

    metadata: of one attention layer, or by the layer's name. num_rows: the rows that the model is run on.
    """
    known = _first(metadata)
    starts = None if known is None else getattr(known, "query_start_loc", None)
    if starts is None:
        return None
    edges = starts.tolist()
    length_B = [end - start for start, end in pairwise(edges)]
    context_B = _contexts(known, length_B)
    rows = [(context, length) for context, length in zip(context_B, length_B, strict=True) if length > 0]
    step = Step(
        context_B=tuple(row[0] for row in rows), length_B=tuple(row[1] for row in rows), num_rows=num_rows
    )
    assert step.num_tokens <= num_rows
    return step


def _first(metadata: object) -> Any:
    """The metadata of some attention layer: all tell of the same requests."""
    return next(iter(metadata.values()), None) if isinstance(metadata, Mapping) else metadata


def _contexts(metadata: Any, length_B: list[int]) -> list[int]:
    """Return [B]: how many tokens of each request are in the KV cache."""
    total_B: Tensor | None = getattr(metadata, "seq_lens", None)
    if total_B is not None:
        return [total - length for total, length in zip(total_B.tolist(), length_B, strict=False)]
    return _split_contexts(metadata, length_B)


def _split_contexts(metadata: Any, length_B: list[int]) -> list[int]:
    """Return [B] of metadata that tells of decoding requests and, after them, of the others (as MLA's does)."""
    num_decoding = int(metadata.num_decodes)
    total_B = metadata.decode.seq_lens.tolist() if num_decoding else []
    decoding = [total - length for total, length in zip(total_B, length_B[:num_decoding], strict=False)]
    cached = None if metadata.prefill is None else metadata.prefill.chunked_context
    num_others = len(length_B) - num_decoding
    return decoding + ([0] * num_others if cached is None else cached.context_lens.tolist())
