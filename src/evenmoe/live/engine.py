"""Engine: a real model that runs batches of prompts and says which experts each prompt used.

Shape letters: B prompts of a batch, T tokens of one prompt, S tokens of the longest, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from evenmoe.live.prompts import Ids
from evenmoe.models.attached import Attached

Loads = NDArray[np.int64]


class Engine(Protocol):
    """Runs batches."""

    def run(self, ids_B: Sequence[Ids]) -> Loads:
        """Run the prompts together, to the first new token of each: [B, L, E] pairs that each prompt asked for."""


class ModelEngine:
    """An attached model in this process. Shorter prompts are padded on the left; padding is not counted."""

    def __init__(self, model: Any, attached: Attached, pad_token_id: int) -> None:
        self._model, self._attached, self._pad_token_id = model, attached, pad_token_id
        self._device = next(model.parameters()).device

    def run(self, ids_B: Sequence[Ids]) -> Loads:
        """Run the prompts together, to the first new token of each: [B, L, E] pairs that each prompt asked for."""
        ids_BS, mask_BS = padded(ids_B, self._pad_token_id)
        names = [str(row) for row in range(len(ids_B))]
        self._attached.reset_loads()
        with torch.inference_mode(), self._attached.tagged(names):
            self._model.generate(
                ids_BS.to(self._device),
                attention_mask=mask_BS.to(self._device),
                max_new_tokens=1,
                min_new_tokens=1,
                do_sample=False,
                pad_token_id=self._pad_token_id,
            )
        by_tag = self._attached.loads.by_tag
        return np.array([by_tag[name].before_LE for name in names])


def padded(ids_B: Sequence[Ids], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [B, S], padded on the left."""
    longest = max(map(len, ids_B))
    ids_BS = torch.full((len(ids_B), longest), pad_token_id)
    mask_BS = torch.zeros_like(ids_BS)
    for row, ids in enumerate(ids_B):
        ids_BS[row, longest - len(ids) :] = torch.from_numpy(ids)
        mask_BS[row, longest - len(ids) :] = 1
    return ids_BS, mask_BS


def pad_token_of(model: Any, tokenizer: Any) -> int:
    """The id to pad with: the tokenizer's, else the model's end of text, else 0; it is masked in any case."""
    for found in (tokenizer.pad_token_id, tokenizer.eos_token_id, model.config.pad_token_id):
        if found is not None:
            return int(found)
    return 0
