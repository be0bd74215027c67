"""Next-token quality of a model on windows of held-out text.

Shape letters: B windows, S tokens per window, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from evenmoe.errors import ShapeError
from evenmoe.evaluation.texts import Window

if TYPE_CHECKING:
    from evenmoe.models.attached import Attached

Progress = Callable[[int], None]
"""Called with the number of batches finished so far."""

Shares = Sequence[Sequence[int]]
"""The virtual device of each window of each batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Quality:
    """Per-window sums, in the order in which the windows ran, so that two runs can be compared in pairs."""

    domains_B: tuple[str, ...]
    correct_B: NDArray[np.int64]
    predicted_B: NDArray[np.int64]
    bits_B: NDArray[np.float64]
    bytes_B: NDArray[np.int64]
    seconds: float

    @property
    def next_token_accuracy(self) -> float:
        """Share of tokens, the first of each window left out, that the model ranks first."""
        return float(self.correct_B.sum() / self.predicted_B.sum())

    @property
    def bits_per_byte(self) -> float:
        """Cross-entropy in bits over the UTF-8 bytes predicted: comparable between tokenizers."""
        return float(self.bits_B.sum() / self.bytes_B.sum())

    def accuracy_by_domain(self) -> dict[str, float]:
        """Next-token accuracy of each domain, by name."""
        domains = np.array(self.domains_B)
        return {
            str(name): float(self.correct_B[domains == name].sum() / self.predicted_B[domains == name].sum())
            for name in np.unique(domains)
        }

    def accuracy_change(self, base: Quality) -> tuple[float, float | None]:
        """Accuracy minus that of `base` on the same windows, and its standard error over paired windows.

        The standard error is None for a single window.
        Raises ShapeError if the two were not measured on the same windows in the same order.
        """
        if self.domains_B != base.domains_B or not np.array_equal(self.predicted_B, base.predicted_B):
            raise ShapeError("a paired difference needs both runs on the same windows in the same order")
        difference_B = (self.correct_B - base.correct_B) / self.predicted_B
        num_windows = len(difference_B)
        stderr = float(difference_B.std(ddof=1)) / math.sqrt(num_windows) if num_windows > 1 else None
        return self.next_token_accuracy - base.next_token_accuracy, stderr


def measure_quality(
    model: torch.nn.Module,
    batches: Sequence[Sequence[Window]],
    attached: Attached | None = None,
    progress: Progress | None = None,
    shares: Shares | None = None,
) -> Quality:
    """Run `model` over `batches` without gradients and score every predicted token.

    With `attached`, loads are tagged by domain, and `shares` says which virtual device each window is on (None: as
    `attach` puts them). `seconds` is the time of the forward passes alone.
    """
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = []
    seconds = 0.0
    for done, batch in enumerate(batches, start=1):
        tagged = attached.tagged([window.domain for window in batch]) if attached else nullcontext()
        placed = attached.assign(shares[done - 1]) if attached and shares is not None else nullcontext()
        ids_BS = _ids(batch, model)
        with torch.inference_mode(), tagged, placed:
            start = time.perf_counter()
            logits_BSV = model(input_ids=ids_BS, use_cache=False).logits
            seconds += time.perf_counter() - start
            parts.append(_score(logits_BSV, ids_BS))
        if progress:
            progress(done)
    windows = [window for batch in batches for window in batch]
    return Quality(
        domains_B=tuple(window.domain for window in windows),
        correct_B=np.concatenate([correct for correct, _ in parts]),
        predicted_B=np.array([len(window.ids_S) - 1 for window in windows]),
        bits_B=np.concatenate([bits for _, bits in parts]),
        bytes_B=np.array([window.num_bytes for window in windows]),
        seconds=seconds,
    )


def _ids(batch: Sequence[Window], model: torch.nn.Module) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.from_numpy(np.stack([window.ids_S for window in batch])).to(device)


def _score(logits_BSV: torch.Tensor, ids_BS: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """Correct predictions and bits, each [B]; row by row, so that no second [B, S, V] tensor is made."""
    correct_B, bits_B = [], []
    for logits_SV, target_S in zip(logits_BSV[:, :-1], ids_BS[:, 1:], strict=True):
        logits_SV = logits_SV.float()
        correct_B.append((logits_SV.argmax(-1) == target_S).sum().item())
        nats = torch.nn.functional.cross_entropy(logits_SV, target_S, reduction="sum")
        bits_B.append(nats.item() / math.log(2))
    return np.array(correct_B, dtype=np.int64), np.array(bits_B)
