"""Traffic: the queue of real prompts, and the same queue as the simulator may know it before it has run.

Shape letters: T tokens of a prompt, L layers, E experts, X = L*E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.errors import ShapeError
from evenmoe.live.prompts import Ids, Prompts
from evenmoe.live.serving import LiveRequest
from evenmoe.live.warmup import WarmUp
from evenmoe.placement import Placement
from evenmoe.simulation.request import Floats, Request
from evenmoe.simulation.workloads.arrivals import Arrivals, stream


class Predictor(Protocol):
    """Foretells a prompt's expert load; a `TokenPrior` is one."""

    def predict(self, ids_T: ArrayLike) -> Floats:
        """[L, E] expected pairs of the whole prompt."""


def make_requests(
    arrivals: Arrivals,
    num_requests: int,
    prompts: Prompts,
    predictor: Predictor,
    placement: Placement,
    seed: int,
) -> list[LiveRequest]:
    """Requests as they arrive; each topic's prompts come in a shuffled order, again and again.

    Raises ShapeError where the predictor foretells other layers or experts than the placement has.
    """
    times_rng, *topic_rngs = np.random.default_rng(seed).spawn(1 + len(prompts.topics))
    supplies = [
        cycle([ids_N[index] for index in rng.permutation(len(ids_N))])
        for ids_N, rng in zip(prompts.by_topic.values(), topic_rngs, strict=True)
    ]
    requests = []
    coming = islice(stream(arrivals, times_rng, prompts.topics), num_requests)
    for number, arrival in enumerate(coming):
        ids_T = next(supplies[arrival.topic])
        load_X = _load_per_token(predictor.predict(ids_T), ids_T, placement)
        request = Request(number, arrival.at_s, len(ids_T), 1, arrival.topic, load_X, load_X)
        requests.append(LiveRequest(request=request, ids_T=ids_T))
    return requests


def foreseen_requests(
    requests: Sequence[LiveRequest], known: WarmUp, predictor: Predictor, placement: Placement
) -> list[Request]:
    """The same arrivals as they are known beforehand: lengths, and loads of the warm-up's prompts on the same topic."""
    supplies = []
    for samples in known.samples.values():
        loads = [
            (
                _load_per_token(sample.load_LE, sample.ids_T, placement),
                _load_per_token(predictor.predict(sample.ids_T), sample.ids_T, placement),
            )
            for sample in samples
        ]
        supplies.append(cycle(loads))
    foreseen = []
    for one in requests:
        load_X, predicted_X = next(supplies[one.request.topic])
        foreseen.append(replace(one.request, load_X=load_X, predicted_X=predicted_X))
    return foreseen


def _load_per_token(load_LE: ArrayLike, ids_T: Ids, placement: Placement) -> Floats:
    """[X], after a check that the load is one of this model."""
    load = np.asarray(load_LE, dtype=np.float64)
    most = max(placement.num_experts(layer) for layer in range(placement.num_layers))
    if load.shape != (placement.num_layers, most):
        raise ShapeError(
            f"a predicted load has (layers, experts) {load.shape}, the model {(placement.num_layers, most)}"
        )
    return np.asarray(load.reshape(-1) / len(ids_T))
