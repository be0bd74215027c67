"""Fitting a token prior to recorded prompts. Shape letters: N prompts, T tokens, L layers, E experts, F folds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.scheduling.predictors.accuracy import cosine
from evenmoe.scheduling.predictors.calibration import fit_calibration
from evenmoe.scheduling.predictors.token_counts import TokenCounts
from evenmoe.scheduling.predictors.token_prior import SHRINKAGE, TokenPrior

Ints = NDArray[np.int64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedPrompts:
    """What was recorded of some prompts: their ids [T] and true loads [N, L, E], and the counts by token id."""

    prompts: tuple[Ints, ...]
    load_NLE: Ints
    counts: TokenCounts


def fit_token_prior(
    folds: Sequence[RecordedPrompts],
    *,
    shrinkage: float = SHRINKAGE,
    model: str = "",
    domains: Sequence[str] = (),
) -> TokenPrior:
    """A prior of all folds together, calibrated on each fold as predicted from the others.

    Prompts of one text that follow each other should be in one fold. With a single fold there is no calibration.
    Raises ConfigError without any fold, ShapeError for folds of different models.
    """
    if not folds:
        raise ConfigError("folds", 0, "at least 1")
    prior = TokenPrior.of_counts(
        (fold.counts for fold in folds), shrinkage=shrinkage, model=model, domains=tuple(domains)
    )
    if len(folds) == 1:
        return prior
    predicted, mean = [], []
    for left_out, fold in enumerate(folds):
        others = [other.counts for index, other in enumerate(folds) if index != left_out]
        partial = TokenPrior.of_counts(others, shrinkage=shrinkage)
        predicted += [partial.predict(ids_T) for ids_T in fold.prompts]
        mean += [partial.mean_LE] * len(fold.prompts)
    true_NLE = np.concatenate([fold.load_NLE for fold in folds])
    _compare(np.array(predicted), np.array(mean), true_NLE)
    fold_N = np.repeat(np.arange(len(folds)), [len(fold.prompts) for fold in folds])
    return prior.replace(calibration=fit_calibration(np.array(predicted), true_NLE, fold_N.tolist()))


def _compare(predicted_NLE: NDArray[np.float64], mean_NLE: NDArray[np.float64], true_NLE: Ints) -> None:
    """Say how well prompts left out were predicted, and warn where their mean does better."""
    reached, blind = float(cosine(predicted_NLE, true_NLE).mean()), float(cosine(mean_NLE, true_NLE).mean())
    logger.info(
        "prompts left out: cosine %.3f before calibration, %.3f with their mean alone", reached, blind
    )
    if reached < blind:
        logger.warning(
            "the token prior predicts prompts that were left out no better (cosine %.3f) than their mean does (%.3f): "
            "learn it on more text, or do not use it",
            reached,
            blind,
        )
