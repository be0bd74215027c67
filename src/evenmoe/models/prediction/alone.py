"""Alone: each token as a prompt of its own, through the whole model.

Shape letters: U different token ids, L layers, E experts.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from evenmoe.models.attach import attach
from evenmoe.models.prediction.running import sizes_of, true_loads
from evenmoe.models.prediction.tokenwise import Bools, Ints, Tokenwise
from evenmoe.routing import Baseline


class Alone(Tokenwise):
    """What the model chooses for a token without any context: attention sees nothing but the token itself.

    Asks the model once for each token id. Attached to `model` until `close`, or use it with `with`.
    keep: see Tokenwise. batch_size: token ids of one forward. Raises as `attach` does.
    """

    def __init__(self, model: nn.Module, *, keep: bool = True, batch_size: int = 256) -> None:
        self._model, self._attached = model, attach(model, Baseline(), pad_token_id=-1)
        super().__init__(*sizes_of(self._attached), keep=keep)
        self._batch_size = batch_size

    def choose(self, ids_U: Ints) -> Bools:
        """[U, L, E]: the experts chosen for each token id."""
        prompts = list(ids_U[:, None])
        load_ULE = true_loads(self._model, self._attached, prompts, batch_size=self._batch_size)
        return np.asarray(load_ULE > 0)

    def close(self) -> None:
        """Detach from the model; what was kept can still be looked up. Raises AttachError if detached already."""
        self._attached.detach()

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
