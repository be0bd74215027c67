"""Predictors beside each other: learned on one text, measured on another.

Shape letters: N windows of text, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from evenmoe.errors import ConfigError, ShapeError, UnsupportedModelError, check_choice
from evenmoe.evaluation.texts import Window
from evenmoe.models.attach import attach
from evenmoe.models.prediction import Alone, FullPrefill, Gates, record_prompts, true_loads
from evenmoe.routing import Baseline
from evenmoe.scheduling.predictors import (
    Accuracy,
    Calibrated,
    Calibration,
    History,
    Predictor,
    RecordedPrompts,
    TokenPrior,
    fit_calibration,
    fit_token_prior,
    measure_accuracy,
)

PREDICTORS = ("token-prior", "gates", "alone", "history", "mean", "full")

Announce = Callable[[str, int, int], None]
"""Told what is being done, how many windows of it are done, and of how many."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionStudy:
    """Scores of predictors on windows that none of them learned from.

    rows: in the order asked for, each with its variants. refused: predictors that the model does not allow, and why.
    coverage: share of the windows' tokens that the prior had seen. num_top: how many experts count as the busiest.
    """

    rows: tuple[Accuracy, ...]
    refused: Mapping[str, str]
    prior: TokenPrior
    coverage: float
    num_top: int
    learned_windows: int
    measured_windows: int

    def as_dict(self) -> dict[str, object]:
        """The study as data."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "refused": dict(self.refused),
            "coverage": self.coverage,
            "num_top": self.num_top,
            "learned_windows": self.learned_windows,
            "measured_windows": self.measured_windows,
        }


def halves(texts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The first and the second half of each text, cut after a line where there is one near the middle.

    Raises ConfigError for a text that has no two halves.
    """
    first, second = {}, {}
    for domain, text in texts.items():
        middle = len(text) // 2
        line_end = text.find("\n", middle) + 1
        cut = line_end if 0 < line_end < len(text) else middle
        first[domain], second[domain] = text[:cut], text[cut:]
        if not first[domain].strip() or not second[domain].strip():
            raise ConfigError(
                "text", domain, "long enough to learn from its first half and measure on its second"
            )
    return first, second


def study_predictors(
    model: torch.nn.Module,
    names: Sequence[str],
    measured: Sequence[Window],
    learned: Sequence[Window] = (),
    *,
    prior: TokenPrior | None = None,
    model_name: str = "",
    batch_size: int = 16,
    announce: Announce = lambda _what, _done, _total: None,
) -> PredictionStudy:
    """Score the predictors in `names` on `measured`, after learning on `learned`, which must be other text.

    token-prior, history and mean learn; gates and alone are calibrated. With a `prior` nothing is learned.
    Raises ConfigError for an unknown name, and where something should learn and has no text; ShapeError for a prior of
    another model.
    """
    for name in names:
        check_choice("predictor", name, PREDICTORS)
    if prior is None and not learned:
        raise ConfigError("learned", 0, "at least one window, or a prior")
    if prior is not None and "history" in names:
        raise ConfigError("predictor", "history", "left out where nothing is learned")
    ids = [window.ids_S for window in measured]
    with attach(model, Baseline(), pad_token_id=-1) as attached:
        told = partial(_told, announce, "measuring", len(ids))
        load_NLE = true_loads(model, attached, ids, batch_size=batch_size, progress=told)
    folds: list[RecordedPrompts] = []
    if prior is None:
        told = partial(_told, announce, "learning", len(learned))
        prompts = [window.ids_S for window in learned]
        folds = record_prompts(model, prompts, batch_size=batch_size, progress=told)
        domains = tuple(dict.fromkeys(window.domain for window in learned))
        prior = fit_token_prior(folds, model=model_name, domains=domains)
    shape, found = load_NLE.shape[1:], (prior.num_layers, prior.num_experts)
    if found != shape:
        raise ShapeError(f"the prior is for {found} layers and experts, the model has {shape}")
    topics, rows, refused = [window.domain for window in measured], [], {}
    for place, name in enumerate(dict.fromkeys(names)):
        announce(name, place, len(names))
        try:
            for label, predictor in _VARIANTS[name](_Given(model, prior, folds, learned)):
                rows.append(measure_accuracy(label, predictor, ids, load_NLE, topics, num_top=prior.top_k))
        except UnsupportedModelError as error:
            refused[name] = str(error)
    return PredictionStudy(
        rows=tuple(rows),
        refused=refused,
        prior=prior,
        coverage=float(np.mean([prior.coverage(one) for one in ids])),
        num_top=prior.top_k,
        learned_windows=len(learned),
        measured_windows=len(measured),
    )


@dataclass(frozen=True)
class _Given:
    """What predictors are made of."""

    model: torch.nn.Module
    prior: TokenPrior
    folds: Sequence[RecordedPrompts]
    learned: Sequence[Window]


_Variants = Iterator[tuple[str, Predictor]]


def _token_prior(given: _Given) -> _Variants:
    yield "token-prior", given.prior
    if given.prior.calibration is not None:
        yield "token-prior, uncalibrated", given.prior.replace(calibration=None)


def _gates(given: _Given) -> _Variants:
    gates, calibration = Gates(given.model, keep=False), _calibration_of(Gates(given.model), given.folds)
    yield "gates", gates
    if calibration is not None:
        yield "gates, calibrated", Calibrated(gates, calibration)


def _alone(given: _Given) -> _Variants:
    with Alone(given.model) as kept:
        calibration = _calibration_of(kept, given.folds)
    with Alone(given.model, keep=False) as alone:
        yield "alone", alone
        if calibration is not None:
            yield "alone, calibrated", Calibrated(alone, calibration)


def _history(given: _Given) -> _Variants:
    prior = given.prior
    history = History(prior.num_layers, prior.num_experts, prior.top_k)
    loads = np.concatenate([fold.load_NLE for fold in given.folds])
    for window, load_LE in zip(given.learned, loads, strict=True):
        history.observe(len(window.ids_S), load_LE, window.domain)
    yield "history", history


def _mean(given: _Given) -> _Variants:
    prior = given.prior
    history = History(prior.num_layers, prior.num_experts, prior.top_k)
    history.observe(prior.counts.num_tokens, prior.counts.load_LE())
    yield "mean", history


def _full(given: _Given) -> _Variants:
    with FullPrefill(given.model) as full:
        yield "full", full


_VARIANTS: dict[str, Callable[[_Given], _Variants]] = {
    "token-prior": _token_prior,
    "gates": _gates,
    "alone": _alone,
    "history": _history,
    "mean": _mean,
    "full": _full,
}


def _calibration_of(predictor: Predictor, folds: Sequence[RecordedPrompts]) -> Calibration | None:
    """A calibration of a predictor that learned nothing from the folds; None without at least 2 of them."""
    if len(folds) < 2:
        return None
    predicted = [predictor.predict(ids_T) for fold in folds for ids_T in fold.prompts]
    fold_N = np.repeat(np.arange(len(folds)), [len(fold.prompts) for fold in folds])
    true_NLE = np.concatenate([fold.load_NLE for fold in folds])
    return fit_calibration(np.array(predicted), true_NLE, fold_N.tolist())


def _told(announce: Announce, what: str, total: int, done: int) -> None:
    announce(what, done, total)
