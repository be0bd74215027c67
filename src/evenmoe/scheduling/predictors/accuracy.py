"""How good a prediction is: cosine and top-expert overlap with the true load, layer by layer, and what it costs.

Shape letters: N prompts, T tokens, L layers, E experts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors.predictor import Predictor

Floats = NDArray[np.float64]


def cosine(predicted: ArrayLike, true: ArrayLike) -> Floats:
    """[...]: cosine between predicted and true loads [..., E]; 1 where both are all zero, 0 where one is.

    Raises ShapeError for shapes that disagree.
    """
    a, b = _pair(predicted, true)
    product, lengths = (a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    both_empty = ~a.any(-1) & ~b.any(-1)
    return np.asarray(np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1.0), both_empty))


def top_overlap(predicted: ArrayLike, true: ArrayLike, num_top: int) -> Floats:
    """[...]: share of the `num_top` truly busiest experts that are among the `num_top` predicted busiest.

    Ties go to the lower index. Raises ShapeError for shapes that disagree, ConfigError for `num_top` out of range.
    """
    a, b = _pair(predicted, true)
    if not 1 <= num_top <= a.shape[-1]:
        raise ConfigError("num_top", num_top, f"from 1 to the {a.shape[-1]} experts")
    return np.asarray((_busiest(a, num_top) & _busiest(b, num_top)).sum(-1) / num_top)


@dataclass(frozen=True, kw_only=True, eq=False)
class Accuracy:
    """A predictor's score on prompts that it did not learn from; means over the prompts.

    cosine_L, overlap_L: by layer. cosine_by_topic: mean over layers. ms: median time of one prediction.
    """

    name: str
    cosine_L: Floats
    overlap_L: Floats
    cosine_by_topic: dict[str, float]
    ms: float

    @property
    def cosine(self) -> float:
        """Mean over layers."""
        return float(self.cosine_L.mean())

    @property
    def overlap(self) -> float:
        """Mean over layers."""
        return float(self.overlap_L.mean())

    def as_dict(self) -> dict[str, object]:
        """The score as data."""
        return {
            "predictor": self.name,
            "cosine": self.cosine,
            "top_overlap": self.overlap,
            "cosine_by_layer": self.cosine_L.tolist(),
            "top_overlap_by_layer": self.overlap_L.tolist(),
            "cosine_by_topic": self.cosine_by_topic,
            "ms_per_request": self.ms,
        }


def measure_accuracy(
    name: str,
    predictor: Predictor,
    prompts: Sequence[ArrayLike],
    true_NLE: ArrayLike,
    topics: Sequence[str],
    *,
    num_top: int,
) -> Accuracy:
    """Score `predictor` on prompts [T] of which the true loads [N, L, E] and topics [N] are known.

    num_top: the number of experts that count as the busiest; K is the custom.
    Raises ShapeError and ConfigError.
    """
    true = np.asarray(true_NLE, dtype=np.float64)
    if true.ndim != 3 or not len(prompts) == len(topics) == len(true) or not len(prompts):
        raise ShapeError(
            f"{len(prompts)} prompts, {len(topics)} topics and loads {true.shape} do not belong together"
        )
    predicted, seconds = [], []
    for ids_T, topic in zip(prompts, topics, strict=True):
        start = time.perf_counter()
        predicted.append(predictor.predict(ids_T, topic))
        seconds.append(time.perf_counter() - start)
    cosine_NL = cosine(np.array(predicted), true)
    names = np.asarray(topics)
    return Accuracy(
        name=name,
        cosine_L=cosine_NL.mean(0),
        overlap_L=top_overlap(np.array(predicted), true, num_top).mean(0),
        cosine_by_topic={topic: float(cosine_NL[names == topic].mean()) for topic in dict.fromkeys(topics)},
        ms=1e3 * statistics.median(seconds),
    )


def _pair(predicted: ArrayLike, true: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if a.shape != b.shape or a.ndim < 1:
        raise ShapeError(f"predicted {a.shape} and true {b.shape} loads must have the same shape")
    return a, b


def _busiest(load: Floats, num_top: int) -> NDArray[np.bool_]:
    order = np.argsort(-load, axis=-1, kind="stable")[..., :num_top]
    chosen = np.zeros(load.shape, dtype=bool)
    np.put_along_axis(chosen, order, True, axis=-1)
    return chosen
