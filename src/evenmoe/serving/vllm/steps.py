"""Steps: which requests' tokens the engine's running step has, as routing must know it.

Shape letters: T tokens of the step, B requests in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.forward_context import get_forward_context, is_forward_context_available

from evenmoe.models.batch import Batch


class Steps:
    """Notices when a new step begins, and reads its requests from the engine's forward context."""

    def __init__(self) -> None:
        self._context: Any = None

    def begun(self) -> bool:
        """Whether a new step has begun since the last call; its layers then ask for the first time."""
        context = get_forward_context() if is_forward_context_available() else None
        if context is self._context and context is not None:
            return False
        self._context = context  # kept, so that the next step's context cannot have this one's address
        return True

    def batch(self, num_tokens: int) -> Batch | None:
        """The step's requests one after the other; None where the engine says nothing of them (profiling runs)."""
        length_B = None if self._context is None else _lengths(self._context.attn_metadata)
        if length_B is None or int(length_B.sum()) > num_tokens:
            return None
        return Batch(
            num_rows=length_B.shape[0],
            num_tokens=num_tokens,
            decode=bool((length_B == 1).all()),
            real_T=_real(int(length_B.sum()), num_tokens),
            length_B=length_B,
        )


def _lengths(metadata: Any) -> Tensor | None:
    """Return [B]: tokens of each request in this step."""
    if isinstance(metadata, list):
        metadata = metadata[0] if metadata else None
    first = next(iter(metadata.values()), None) if isinstance(metadata, dict) else metadata
    starts = getattr(first, "query_start_loc", None)
    return None if starts is None else starts.diff().cpu().long()


def _real(num_real: int, num_tokens: int) -> Tensor | None:
    return None if num_real == num_tokens else torch.arange(num_tokens) < num_real
