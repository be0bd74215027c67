"""Request and Workload: what the simulator serves.

Shape letters: L layers, E experts, X = L*E entries of a load vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One request of a workload.

    number: 0, 1, ... in order of arrival. arrived_s: seconds since the workload began, never less than the one before.
    prompt_tokens, output_tokens: at least 1 each; the first output token comes out of prefill.
    topic: index into the workload's topics.
    load_X: what it truly asks for, as expected (token, expert) pairs per token: [L * E], each layer sums to K.
    predicted_X: what the scheduler is told, in the same form; the same array where the prediction is exact.
    """

    number: int
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    topic: int
    load_X: Floats
    predicted_X: Floats

    @property
    def tokens(self) -> int:
        """All tokens that pass the layers: the prompt, and every output token but the last."""
        return self.prompt_tokens + self.output_tokens - 1


class Workload(Protocol):
    """A stream of requests, the same for the same seed, and the shape of their load vectors."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics; at least one."""

    @property
    def num_layers(self) -> int:
        """L."""

    @property
    def num_experts(self) -> int:
        """E of each layer."""

    @property
    def top_k(self) -> float:
        """K: the sum of a load vector over the experts of one layer."""

    def requests(self, seed: int) -> Iterator[Request]:
        """The requests in order of arrival, made one after another: a million need no memory. It may never end."""
