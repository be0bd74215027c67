"""Calibration: what a prediction says about its own errors, learned on prompts whose true load is known.

A token's experts depend on its neighbours: in German text, tokens that other languages share go to the German experts.
A predictor that looks at each token alone misses that, but the sum over a prompt shows the language. So a linear map
from a prompt's predicted load to its true load, one per layer, repairs most of it.

Shape letters: N prompts, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors.accuracy import cosine
from evenmoe.scheduling.predictors.predictor import Predictor

Floats = NDArray[np.float64]

RIDGES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Penalties tried, relative to the mean square of the predictions."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """`load_LE + load_LE @ change_LEE`, without negative entries, scaled to the layer's total."""

    change_LEE: NDArray[np.float32]
    _exact_LEE: Floats = field(init=False, repr=False)
    """The same in the precision of loads: mixed precisions are slow to multiply."""

    def __post_init__(self) -> None:
        shape = self.change_LEE.shape
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ShapeError(f"change_LEE has shape {shape}; it needs a square of experts for each layer")
        if not np.isfinite(self.change_LEE).all():
            raise ConfigError("change_LEE", "not finite", "finite numbers")
        object.__setattr__(self, "_exact_LEE", self.change_LEE.astype(np.float64))

    def apply(self, load_LE: Floats) -> Floats:
        """[..., L, E]: a predicted load, or several, corrected; each layer keeps its total."""
        changed = load_LE + np.matmul(load_LE[..., None, :], self._exact_LEE)[..., 0, :]
        np.maximum(changed, 0.0, out=changed)
        total, own = load_LE.sum(-1, keepdims=True), changed.sum(-1, keepdims=True)
        if own.min(initial=np.inf) > 0:
            changed *= total / own
            return np.asarray(changed)
        return np.where(own > 0, changed * (total / np.where(own > 0, own, 1.0)), load_LE)


class Calibrated:
    """A predictor followed by a calibration. Raises ShapeError unless they are of one model."""

    def __init__(self, predictor: Predictor, calibration: Calibration) -> None:
        sizes = (predictor.num_layers, predictor.num_experts)
        if calibration.change_LEE.shape[:2] != sizes:
            raise ShapeError(
                f"the calibration is for {calibration.change_LEE.shape[:2]} layers and experts, the predictor {sizes}"
            )
        self.predictor, self.calibration = predictor, calibration
        self.num_layers, self.num_experts, self.top_k = *sizes, predictor.top_k

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: expected pairs of the prompt. Raises as the predictor does."""
        return self.calibration.apply(self.predictor.predict(ids_T, topic))


def fit_calibration(
    predicted_NLE: ArrayLike, true_NLE: ArrayLike, fold_N: Sequence[int]
) -> Calibration | None:
    """The calibration that predicts best what it was not fitted on; None where none is better than no calibration.

    predicted_NLE, true_NLE: loads of N prompts. fold_N: the fold of each; prompts of one fold are left out together.
    Raises ShapeError for shapes that disagree, ConfigError for fewer than 2 folds.
    """
    predicted, true = _per_pair(predicted_NLE), _per_pair(true_NLE)
    folds = np.asarray(fold_N)
    if predicted.ndim != 3 or predicted.shape != true.shape or folds.shape != predicted.shape[:1]:
        raise ShapeError(
            f"predicted {predicted.shape}, true {true.shape} and folds {folds.shape} must be [N, L, E] and [N]"
        )
    if len(np.unique(folds)) < 2:
        raise ConfigError("fold_N", sorted(set(folds.tolist())), "at least 2 folds")
    best, best_cosine = None, float(cosine(predicted, true).mean())
    for ridge in RIDGES:
        left_out = np.empty_like(predicted)
        for fold in np.unique(folds):
            mine = folds == fold
            left_out[mine] = _fit(predicted[~mine], true[~mine], ridge).apply(predicted[mine])
        reached = float(cosine(left_out, true).mean())
        if reached > best_cosine:
            best, best_cosine = ridge, reached
    return None if best is None else _fit(predicted, true, best)


def _fit(predicted_NLE: Floats, true_NLE: Floats, ridge: float) -> Calibration:
    """Ridge regression of the errors on the predictions, layer by layer."""
    x_LNE, error_LNE = predicted_NLE.swapaxes(0, 1), (true_NLE - predicted_NLE).swapaxes(0, 1)
    x_LEN = x_LNE.swapaxes(1, 2)
    gram_LEE = x_LEN @ x_LNE
    penalty_L = ridge * np.trace(gram_LEE, axis1=1, axis2=2) + 1e-12
    penalty_LEE = penalty_L[:, None, None] * np.eye(gram_LEE.shape[1])
    return Calibration(np.linalg.solve(gram_LEE + penalty_LEE, x_LEN @ error_LNE).astype(np.float32))


def _per_pair(load_NLE: ArrayLike) -> Floats:
    """Loads whose layers sum to 1, so that long prompts count no more than short ones."""
    load = np.asarray(load_NLE, dtype=np.float64)
    total = load.sum(-1, keepdims=True)
    return np.asarray(load / np.where(total > 0, total, 1.0))
