"""What routers said, and routers that say it again. Shape letters: T tokens, L MoE layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.sites import find_sites

RouterOutput = tuple[Tensor, ...]
"""What a router returns: tensors with a row per token."""


class Routers:
    """The routers of a model: what they say can be given, and can be listened to.

    Make it before attaching: the policy must hear what is given.
    """

    def __init__(self, model: nn.Module) -> None:
        self._given: list[RouterOutput | None] = []
        self._heard: list[RouterOutput] | None = None
        for layer, site in enumerate(find_sites(model)):
            self._given.append(None)
            site.router.register_forward_hook(self._hook_of(layer))

    def give(self, outputs: Sequence[RouterOutput] | None) -> None:
        """From now on the routers of all layers say `outputs`, whatever they are asked; None: what they find."""
        self._given = [None] * len(self._given) if outputs is None else list(outputs)

    def listen(self) -> None:
        """Forget what was said, and keep what the routers say from now on, in the order of their calls."""
        self._heard = []

    def heard(self) -> list[RouterOutput]:
        """Return what the routers said since `listen`, and stop listening."""
        heard, self._heard = self._heard or [], None
        return heard

    def _hook_of(self, layer: int) -> Any:
        def hook(_router: nn.Module, _args: Any, output: Any) -> Any:
            if self._heard is not None:
                self._heard.append(_checked(output))
            return self._given[layer]

        return hook


def rows_of(outputs: Sequence[RouterOutput], tokens: slice) -> list[RouterOutput]:
    """Return what each router said of some tokens."""
    return [tuple(part[tokens] for part in output) for output in outputs]


def _checked(output: Any) -> RouterOutput:
    is_by_token = isinstance(output, tuple) and all(
        isinstance(part, Tensor) and part.dim() == 2 and part.shape[0] == output[0].shape[0]
        for part in output
    )
    if not is_by_token:
        raise UnsupportedModelError(
            "this architecture's routers return more than a row per token, which cannot be cut into devices: "
            "use --mode ranks"
        )
    whole: RouterOutput = output
    return whole
