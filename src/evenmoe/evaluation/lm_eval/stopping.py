"""Stopping generation row by row, so that a row that is done is fed padding and no longer competes for capacity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn


class RowStop(transformers.StoppingCriteria):  # type: ignore[misc]
    """Ends each row once one of the stop strings is in what it has generated. Shape letters: B rows, S positions.

    lm-eval's own criterion ends all rows together, and rows that are done go on with text that nobody reads.
    transformers feeds a row that has ended its last token once more; `feed` makes that padding too.
    """

    def __init__(
        self, stops: Sequence[str], ends: Sequence[int], tokenizer: Any, num_context: int, pad: int
    ) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._ends, self._tokenizer = torch.tensor(ends, dtype=torch.long), tokenizer
        self._num_context, self._pad = num_context, pad
        # a stop string may be spelt in as many tokens as it has bytes, and begin or end inside one
        self._lookback = max((len(stop.encode()) for stop in self._stops), default=0) + 2
        self._done_B: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return [B] bool: which rows are done."""
        recent_BS = input_ids[:, self._num_context :][:, -self._lookback :]
        texts = self._tokenizer.batch_decode(recent_BS)
        found = [any(stop in text for stop in self._stops) for text in texts]
        done_B = torch.tensor(found, device=input_ids.device)
        done_B = done_B | torch.isin(input_ids[:, -1], self._ends.to(input_ids.device))
        self._done_B = done_B if self._done_B is None else self._done_B | done_B
        return self._done_B

    def feed(self, _model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Replace what rows that are done are fed, before anything else sees it: a forward pre-hook."""
        ids_BS = kwargs.get("input_ids")
        if self._done_B is not None and ids_BS is not None and ids_BS.shape == (len(self._done_B), 1):
            kwargs = kwargs | {"input_ids": ids_BS.masked_fill(self._done_B[:, None], self._pad)}
        return args, kwargs


@contextmanager
def stopping_rows(model: nn.Module, rows: RowStop) -> Iterator[transformers.StoppingCriteriaList]:
    """Within the block, generation with the criteria given ends row by row."""
    handle = model.register_forward_pre_hook(rows.feed, with_kwargs=True, prepend=True)
    try:
        yield transformers.StoppingCriteriaList([rows])
    finally:
        handle.remove()


def end_tokens(model: nn.Module) -> list[int]:
    """Ids that end a text by the model's own generation configuration."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return [] if named is None else list(named) if isinstance(named, list) else [int(named)]
