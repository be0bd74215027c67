"""Sampling: the next token of each request of a step by that request's own settings.

transformers samples all requests of a step alike, from one generator: a request's draws would depend on its
neighbours. Here a draw is an argmax of scores with Gumbel noise, which comes from the request's seed and the token's
position alone; where nothing is drawn the scores are left as they are, and their argmax is greedy decoding.

Shape letters: B requests with a next token, V entries of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

_FIELDS: dict[str, type] = {"temperature": float, "top_p": float, "top_k": int, "seed": int}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one request's tokens are chosen. temperature 0: greedy. top_p 1, top_k 0: no limit."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def as_kwargs(self) -> dict[str, Any]:
        """The settings as `ContinuousBatchingManager.add_request` takes them."""
        return asdict(self)


GREEDY = Sampling()


def drawn_scores(scores_V: Tensor, sampling: Sampling, position: int) -> Tensor:
    """Return [V] scores whose argmax is the token drawn at this position of the request's text.

    Adding Gumbel noise to log-probabilities and taking the argmax draws from the softmax; what top_k and then top_p
    leave out scores minus infinity.
    """
    if sampling.temperature == 0:
        return scores_V
    logits_V = (scores_V.double() - scores_V.max()) / sampling.temperature
    limited_V = _top_p(_top_k(logits_V, sampling.top_k), sampling.top_p)
    generator = torch.Generator().manual_seed((sampling.seed * 1_000_003 + position) % 2**63)
    uniform_V = torch.rand(limited_V.shape, generator=generator, dtype=torch.float64).to(limited_V.device)
    return (limited_V - (-uniform_V.clamp_min(1e-300).log()).log()).to(scores_V.dtype)


def _top_k(logits_V: Tensor, top_k: int) -> Tensor:
    if top_k == 0 or top_k >= logits_V.shape[0]:
        return logits_V
    return logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], -math.inf)


def _top_p(logits_V: Tensor, top_p: float) -> Tensor:
    """Keep the fewest of the likeliest tokens that have the share top_p together; at least one."""
    if top_p >= 1:
        return logits_V
    sorted_V, order_V = logits_V.sort(descending=True)
    share_V = sorted_V.softmax(0)
    beyond_V = share_V.cumsum(0) - share_V >= top_p
    beyond_V[0] = False
    return logits_V.masked_fill(torch.zeros_like(beyond_V).scatter(0, order_V, beyond_V), -math.inf)


class SamplingProcessor(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]
    """Gives each row of a step's scores to `drawn_scores`; the engine then takes the argmax."""

    supported_kwargs = _FIELDS
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._rows: list[tuple[Sampling, int]] = []

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing of it travels in the engine's tensors."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """Note the settings of the step's requests, and the position of each one's next token."""
        self._rows = [
            (sampling_of(request.state.logit_processor_kwargs), request.state.position_offset)
            for request in requests_with_new_token
        ]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Return [B, V]; rows after the last request with a next token are left as they are."""
        if all(sampling.temperature == 0 for sampling, _ in self._rows):
            return scores
        scores_BV = scores.clone()
        for row, (sampling, position) in enumerate(self._rows):
            scores_BV[row] = drawn_scores(scores[row], sampling, position)
        return scores_BV


def sampling_of(kwargs: Mapping[str, Any]) -> Sampling:
    """The settings that a request brought; none: greedy."""
    return Sampling(**kwargs)


def sampling_processors() -> Any:
    """The engine's processors: ours alone. It needs synchronous batching, as it remembers the step's requests."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([SamplingProcessor()]))
    processors.tensors_required = 1
    return processors
