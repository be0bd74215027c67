"""Log-likelihoods of one batch of rows. Shape letters: B rows, S positions, V vocabulary, N scored positions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.evaluation.lm_eval.batching import ScoredRow

PADDING_ID = 0
"""What lm-eval pads with on the right. Which positions are padding is told by their place, never by this id."""


def right_padded(rows: Sequence[ScoredRow], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ids [B, S] and which of them are real [B, S] bool."""
    lengths = [len(row.input_ids) for row in rows]
    ids_BS = torch.full((len(rows), max(lengths)), PADDING_ID, dtype=torch.long)
    for row, (scored, length) in enumerate(zip(rows, lengths, strict=True)):
        ids_BS[row, :length] = torch.tensor(scored.input_ids)
    real_BS = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids_BS.to(device), real_BS.to(device)


def last_logits(model: nn.Module, ids_BS: Tensor, num_last: int) -> Tensor:
    """Return the logits [B, num_last, V] of the last positions, computing no others where the model can leave them out.

    The bits are those of a whole forward.
    """
    taken = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "logits_to_keep" in taken:
        options["logits_to_keep"] = num_last
    if "use_cache" in taken:
        options["use_cache"] = False
    logits_BSV: Tensor = model(ids_BS, **options).logits
    return logits_BSV[:, -num_last:]


def score_rows(
    rows: Sequence[ScoredRow],
    device: torch.device,
    logits_of: Callable[[Tensor, Tensor, int], Tensor],
    softmax_dtype: torch.dtype | None,
) -> list[list[tuple[float, bool]]]:
    """Return for each row and each of its requests: the log-likelihood, and whether greedy decoding would say it.

    logits_of: called once with the ids [B, S], which are real [B, S], and how many last positions are wanted.
    """
    ids_BS, real_BS = right_padded(rows, device)
    num_positions = ids_BS.shape[1]
    first = min(len(row.input_ids) - row.num_scored for row in rows)
    logits_BSV = logits_of(ids_BS, real_BS, num_positions - first)
    answers = []
    for row, logits_SV in zip(rows, logits_BSV, strict=True):
        stop = len(row.input_ids) - first
        logprobs_NV = torch.log_softmax(logits_SV[stop - row.num_scored : stop], dim=-1, dtype=softmax_dtype)
        answers.append([_score(logprobs_NV, continuation) for continuation in row.continuations])
    return answers


def _score(logprobs_NV: Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    ids_N = torch.tensor(continuation, device=logprobs_NV.device)
    logprobs_NV = logprobs_NV[-len(continuation) :]
    total = logprobs_NV.gather(1, ids_N[:, None]).sum()
    return float(total), bool((logprobs_NV.argmax(-1) == ids_N).all())
