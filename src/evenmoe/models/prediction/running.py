"""Running a model over prompts, for its routers' choices alone.

Shape letters: N prompts, B prompts of a batch, S tokens of each, T tokens of a forward, L layers, E experts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.models.attached import Attached
from evenmoe.models.session import LayerStep
from evenmoe.scheduling.predictors.predictor import as_ids

Ints = NDArray[np.int64]

Progress = Callable[[int], None]
"""Told how many prompts have run so far."""


def equal_batches(prompts: Sequence[ArrayLike], batch_size: int) -> Iterator[tuple[Ints, Ints]]:
    """Places [B] and token ids [B, S] of prompts of one length each, so that nothing is padded.

    Empty prompts are left out. Raises ConfigError for a batch size below 1, ShapeError and ConfigError for prompts that
    are no lists of token ids.
    """
    if batch_size < 1:
        raise ConfigError("batch_size", batch_size, "at least 1")
    checked = [as_ids(ids_S) for ids_S in prompts]
    length_N = np.array([len(ids_S) for ids_S in checked], dtype=np.int64)
    for length in np.unique(length_N[length_N > 0]):
        alike = np.flatnonzero(length_N == length)
        for start in range(0, len(alike), batch_size):
            place_B = alike[start : start + batch_size]
            yield place_B, np.stack([checked[place] for place in place_B])


@torch.inference_mode()
def run_layers(model: nn.Module, ids_BS: Ints) -> None:
    """Run a model over prompts without a cache; of its logits, only the last ones where it can be told so."""
    device = next(model.parameters()).device
    options = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    model(input_ids=torch.from_numpy(ids_BS).to(device), use_cache=False, **options)


def ids_of(step: LayerStep) -> torch.Tensor:
    """[T]: the token ids of a layer's call. Raises ShapeError where the layer runs on anything else."""
    if step.tokens.ids_T is None:
        raise ShapeError(
            f"{step.name}: its {step.tokens.num_tokens} tokens are not those of prompts given as token ids"
        )
    return step.tokens.ids_T


class PromptLoads:
    """Gathers the load of each row of a batch: `with attached.observed(PromptLoads(attached, num_rows)): ...`."""

    def __init__(self, attached: Attached, num_rows: int) -> None:
        num_layers, num_experts, _ = sizes_of(attached)
        self.load_BLE: Ints = np.zeros((num_rows, num_layers, num_experts), dtype=np.int64)

    def __call__(self, step: LayerStep) -> None:
        """Count one layer's part of one forward. Raises ShapeError for tokens that are not the prompts'."""
        ids_of(step)
        assert step.tokens.row_T is not None
        load_BE = torch.zeros(len(self.load_BLE), step.chosen_TE.shape[1], dtype=torch.long)
        load_BE.index_add_(0, step.tokens.row_T.cpu(), step.chosen_TE.cpu().long())
        self.load_BLE[:, step.layer, : load_BE.shape[1]] += load_BE.numpy()


def true_loads(
    model: nn.Module,
    attached: Attached,
    prompts: Sequence[ArrayLike],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Ints:
    """[N, L, E]: the pairs that the routers of an attached model ask for, of each prompt; runs the prompts.

    Each prompt has a row to itself, without padding. progress: told the number of prompts run so far.
    """
    num_layers, num_experts, _ = sizes_of(attached)
    done = 0
    load_NLE = np.zeros((len(prompts), num_layers, num_experts), dtype=np.int64)
    for place_B, ids_BS in equal_batches(prompts, batch_size):
        listener = PromptLoads(attached, len(place_B))
        with attached.observed(listener):
            run_layers(model, ids_BS)
        load_NLE[place_B] = listener.load_BLE
        done += len(place_B)
        if progress is not None:
            progress(done)
    return load_NLE


def sizes_of(attached: Attached) -> tuple[int, int, int]:
    """L, and the most experts E and the most experts per token K of any layer."""
    layers = attached.layers
    return len(layers), max(layer.num_experts for layer in layers), max(layer.top_k for layer in layers)
