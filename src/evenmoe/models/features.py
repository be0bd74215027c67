"""Features: what is read off the hidden states that enter an MoE layer. Shape letters: T tokens, H hidden size."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_ENTRIES: Final = 2**24
"""Entries of the hidden states that are widened to float32 at a time: 64 MB."""
_ENTRIES_ON_CPU: Final = 2**16
"""What a core's cache holds: three times as fast there as megabytes at a time."""


@torch.no_grad()
def feature_entropy(hidden: Tensor) -> Tensor:
    """Return [T] float32: the Shannon entropy, in nats, of softmax over each token's features; hidden is [..., H].

    A part of the tokens at a time, so that no second copy of the hidden states is made. (MACS, arXiv 2605.05225.)
    """
    hidden_TH = hidden.detach().reshape(-1, hidden.shape[-1])
    entries = _ENTRIES_ON_CPU if hidden_TH.device.type == "cpu" else _ENTRIES
    rows = max(entries // hidden_TH.shape[1], 1)
    starts = range(0, max(hidden_TH.shape[0], 1), rows)
    return torch.cat([_entropy(hidden_TH[start : start + rows].float()) for start in starts])


def _entropy(logits_TH: Tensor) -> Tensor:
    shifted_TH = logits_TH - logits_TH.amax(1, keepdim=True)
    mass_TH = shifted_TH.exp()
    total_T = mass_TH.sum(1)
    return total_T.log() - (mass_TH * shifted_TH).sum(1) / total_T
