"""Greedy decoding with a limit for each row. B rows, S positions, N new tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria, StoppingCriteriaList

GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.0,
}
"""Replaces what a checkpoint's own generation configuration says of sampling."""


class RowEnds(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at an end token or after its own number of new tokens, and feeds it padding from then on.

    transformers feeds a row that has ended its last token once more; routed, that token would take room from others.
    """

    def __init__(self, num_prompt_tokens: int, limit_B: Tensor, ends: Tensor, pad: int) -> None:
        self._num_prompt_tokens, self._limit_B, self._ends, self._pad = num_prompt_tokens, limit_B, ends, pad
        self._done_B = torch.zeros_like(limit_B, dtype=torch.bool)

    def __call__(self, input_ids: Tensor, scores: Any, **_kwargs: Any) -> Tensor:
        beyond_B = input_ids.shape[1] - self._num_prompt_tokens >= self._limit_B
        self._done_B = self._done_B | beyond_B | torch.isin(input_ids[:, -1], self._ends)
        return self._done_B

    def feed(self, _model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replace what ended rows are fed, before anything else sees it: a forward pre-hook."""
        ids_BS = kwargs.get("input_ids")
        if ids_BS is not None and ids_BS.shape[1] == 1:
            kwargs = kwargs | {"input_ids": ids_BS.masked_fill(self._done_B[:, None], self._pad)}
        return args, kwargs


@torch.inference_mode()
def generate(
    model: nn.Module, encoded: Mapping[str, Any], limits: Sequence[int], *, pad: int, end: int | None
) -> Tensor:
    """Return the new ids [B, N] of each row, padded after its end; `encoded` is padded on the left.

    limits: the most new tokens of each row. end: the id that ends a text, where the model's generation configuration
    names none.
    """
    ids_BS = encoded["input_ids"]
    limit_B = torch.tensor(limits, device=ids_BS.device)
    ends = _end_tokens(model, end)
    rows = RowEnds(ids_BS.shape[1], limit_B, torch.tensor(ends, device=ids_BS.device), pad)
    handle = model.register_forward_pre_hook(rows.feed, with_kwargs=True, prepend=True)
    try:
        found: Tensor = model.generate(  # type: ignore[operator]
            **encoded,
            **GREEDY,
            max_new_tokens=max(limits),
            pad_token_id=pad,
            eos_token_id=ends or None,
            stopping_criteria=StoppingCriteriaList([rows]),
        )
    finally:
        handle.remove()
    new_BN = found[:, ids_BS.shape[1] :]
    beyond_BN = torch.arange(new_BN.shape[1], device=new_BN.device) >= limit_B[:, None]
    return new_BN.masked_fill(beyond_BN, pad)


def _end_tokens(model: nn.Module, end: int | None) -> list[int]:
    own: Any = getattr(model, "generation_config", None)
    named = None if own is None else own.eos_token_id
    if named is None:
        return [] if end is None else [end]
    return list(named) if isinstance(named, list) else [int(named)]
