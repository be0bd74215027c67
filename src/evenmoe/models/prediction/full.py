"""FullPrefill: the model's own prefill as a predictor. Shape letters: T tokens of a prompt, L layers, E experts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from evenmoe.models.attach import attach
from evenmoe.models.prediction.running import sizes_of, true_loads
from evenmoe.routing import Baseline
from evenmoe.scheduling.predictors.predictor import as_ids


class FullPrefill:
    """Runs the prompt: exact, at the price of a prefill. Attached to `model` until `close`, or use it with `with`.

    Raises as `attach` does.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._attached = model, attach(model, Baseline(), pad_token_id=-1)
        self.num_layers, self.num_experts, self.top_k = sizes_of(self._attached)

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> NDArray[np.float64]:
        """[L, E]: the pairs that the routers ask for. `topic` is not used.

        Raises ShapeError and ConfigError for anything but a list of token ids.
        """
        return np.asarray(true_loads(self._model, self._attached, [as_ids(ids_T)])[0], dtype=np.float64)

    def close(self) -> None:
        """Detach from the model. Raises AttachError if it is detached already."""
        self._attached.detach()

    def __enter__(self) -> FullPrefill:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
