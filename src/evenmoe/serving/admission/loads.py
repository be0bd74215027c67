"""RequestLoads: what each request is expected to ask of the experts, or of the devices that hold them.

Shape letters: T tokens of a prompt, L layers, E experts, X = L * E, V entries of what is seen of a load.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.serving.admission.ledger import Rate
from evenmoe.serving.admission.predictions import Predictions, read_prior, shape_of_prior
from evenmoe.serving.admission.rates import RateTable
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.admission.view import View
from evenmoe.serving.config import RoutingConfig, SchedulingConfig
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot

Floats = NDArray[np.float64]


@dataclass(eq=False, slots=True)
class _Request:
    ids_T: ArrayLike | None
    num_tokens: int
    cached_tokens: int
    client_X: NDArray[np.float32] | None
    plain_X: Rate | None = None
    """[X] what is predicted of a token; None until someone asks."""
    seen_V: NDArray[np.floating] | None = None
    """[V] the same, corrected, as it is seen."""


class RequestLoads:
    """Predictions of requests that wait or run. Each is made once, when it is first asked for.

    most_of_one: prompt tokens of one request in one step, at most.
    shape: of the model; None: that of the prior, else of the first snapshot, before which nothing is predicted.
    Raises FileNotFoundError, FileFormatError, ShapeError and ConfigError for a prior or a placement that does not fit.
    """

    def __init__(
        self, config: SchedulingConfig, routing: RoutingConfig, shape: Shape | None, most_of_one: int
    ) -> None:
        self._config, self._routing, self._most_of_one = config, routing, most_of_one
        self._requests: dict[Hashable, _Request] = {}
        self._prior = read_prior(config)
        self.predictions: Predictions | None = None
        if shape is None and self._prior is not None:
            shape = shape_of_prior(self._prior)
        if shape is not None:
            self._learn(shape)

    @property
    def can_predict(self) -> bool:
        """Whether there is a predictor, and the model's shape is known."""
        return self.predictions is not None

    @property
    def num_layers(self) -> int:
        """L, of which a load is made; 1 while that is not known."""
        return 1 if self.predictions is None else self.predictions.shape.num_layers

    def __contains__(self, key: object) -> bool:
        return key in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def add(
        self,
        key: Hashable,
        ids_T: ArrayLike | None,
        num_tokens: int,
        cached_tokens: int,
        client_X: Rate | None,
    ) -> None:
        """A request has come."""
        self._requests[key] = _Request(ids_T, num_tokens, cached_tokens, client_X)

    def cached(self, key: Hashable, cached_tokens: int) -> bool:
        """So many tokens of the prompt need no routing now; whether that is news."""
        request = self._requests[key]
        if request.cached_tokens == cached_tokens:
            return False
        request.cached_tokens, request.plain_X, request.seen_V = cached_tokens, None, None
        return True

    def drop(self, key: Hashable) -> None:
        """A request is gone."""
        self._requests.pop(key, None)
        if self.can_predict:
            self._running.drop(key)

    def tokens(self, key: Hashable) -> int:
        """Tokens that a waiting request would have in its first step; the last of a prompt is always routed."""
        request = self._requests[key]
        return min(max(request.num_tokens - request.cached_tokens, 1), self._most_of_one)

    def first_step(self, key: Hashable) -> Floats:
        """[V]: the load that a waiting request would bring in its first step."""
        return self._seen(self._requests[key]) * np.float64(self.tokens(key))

    def running(self, parts: Iterable[tuple[Hashable, int]]) -> Floats:
        """[V]: the load of requests with so many tokens each."""
        known = [part for part in parts if part[0] in self._requests]
        for key, _ in known:
            if key not in self._running:
                self._running.put(key, self._seen(self._requests[key]))
        return self._running.load(known)

    def waits_again(self, key: Hashable) -> None:
        """A request that ran runs no more, for now."""
        if self.can_predict:
            self._running.drop(key)

    def handed_out(self, parts: Iterable[tuple[Hashable, int]]) -> None:
        """A step with these requests and tokens is about to run."""
        if self.predictions is not None:
            self.predictions.handed_out([(self._plain(key), tokens) for key, tokens in parts])

    def observe(self, snapshot: LoadsSnapshot) -> None:
        """Learn from what was routed up to some step. Raises ConfigError where a prior is for another model."""
        if self.predictions is None and self._config.predictor != "none":
            self._learn(Shape.of(snapshot.loads))
        if self.predictions is not None:
            self.predictions.observe(snapshot)

    def _plain(self, key: Hashable) -> Rate:
        assert self.predictions is not None
        request = self._requests.get(key)
        if request is None:
            return self.predictions.unknown_X
        if request.plain_X is None:
            request.plain_X = self.predictions.rate(request.ids_T, request.cached_tokens, request.client_X)
        return request.plain_X

    def _seen(self, request: _Request) -> NDArray[np.floating]:
        assert self.predictions is not None
        if request.seen_V is None:
            if request.plain_X is None:
                request.plain_X = self.predictions.rate(
                    request.ids_T, request.cached_tokens, request.client_X
                )
            request.seen_V = self._view(self.predictions.corrected(request.plain_X))
        return request.seen_V

    def _learn(self, shape: Shape) -> None:
        if self._config.predictor == "none":
            return
        self._view = View(shape, self._routing)
        self.predictions = Predictions(self._config, shape, self._prior)
        self._running = RateTable(self._view.length)
