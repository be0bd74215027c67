"""Predictions: what a request will ask of each expert, per token, corrected by what was observed.

Shape letters: T tokens of a prompt, L layers, E experts, X = L * E.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import EvenMoEError
from evenmoe.scheduling.predictors import Feedback, Predictor, TokenPrior, read_token_prior
from evenmoe.scheduling.predictors.predictor import as_ids
from evenmoe.serving.admission.ledger import Ledger, Rate
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.config import SchedulingConfig
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot

Floats = NDArray[np.float64]

logger = logging.getLogger(__name__)


class Predictions:
    """Rates, the expected (token, expert) pairs [X] of one token of a request, and how well they did.

    A token prior predicts from the ids of those tokens of a prompt that will be routed. A client's load is taken for
    its shape alone: each layer is scaled to K a token, so that nobody is admitted sooner for claiming less work. A
    request of which nothing is known is expected to be as what was observed lately, or even before that.
    """

    def __init__(self, config: SchedulingConfig, shape: Shape, prior: TokenPrior | None) -> None:
        self.shape, self.num_unpredicted, self.num_feedback, self.num_unaligned = shape, 0, 0, 0
        self._prior, self._prior_path = prior, config.prior
        if prior is not None:
            shape_of_prior(prior).check("evenmoe.scheduling.prior", config.prior, shape)
        self.unknown_X = np.full(shape.num_entries, shape.top_k / shape.num_experts, dtype=np.float32)
        """[X]: of a request of which nothing is known."""
        self._corrects = config.feedback
        self._feedback = Feedback(self._prior or _Even(shape))
        self._ledger = Ledger(shape.num_entries)
        self._base: LoadsSnapshot | None = None
        self._unaligned: LoadsSnapshot | None = None

    def rate(self, ids_T: ArrayLike | None, cached_tokens: int, load_X: NDArray[np.float32] | None) -> Rate:
        """[X]: what is predicted of a token, not corrected. `ids_T` None: the prompt is not made of tokens."""
        if load_X is not None and len(load_X) == self.shape.num_entries:
            return self._scaled(load_X)
        if self._prior is None:
            return self.unknown_X
        try:
            ids = as_ids([] if ids_T is None else ids_T)[cached_tokens:]
            load_LE = self._prior.predict(ids) / len(ids) if len(ids) else self._prior.mean_LE
        except EvenMoEError as error:
            # an engine's ids are integers of at least 0; should one differ, a worse guess is better than a dead engine
            self.num_unpredicted += 1
            if self.num_unpredicted == 1:
                logger.warning("a request's load cannot be predicted, the mean is used: %s", error)
            load_LE = self._prior.mean_LE
        return np.asarray(load_LE, dtype=np.float32).reshape(-1)

    def corrected(self, rate_X: Rate) -> Rate:
        """[X]: the rate by the feedback so far; the rate itself where feedback is off or there is none yet."""
        if not (self._corrects and self.num_feedback):
            return rate_X
        feedback, shape = self._feedback, self.shape
        rate_LE = rate_X.reshape(shape.num_layers, shape.num_experts)
        if not feedback.trusted:
            return feedback.mean_LE.reshape(-1)
        return feedback.correct(rate_LE.astype(np.float64)).reshape(-1)

    def handed_out(self, parts: Sequence[tuple[Rate, int]]) -> None:
        """A step is about to run: each request's rate, not corrected, and its tokens in the step."""
        self._ledger.record(parts)

    def observe(self, snapshot: LoadsSnapshot) -> None:
        """Compare with what was routed up to some step. Raises ConfigError where it is of another model."""
        if snapshot is self._base or snapshot is self._unaligned:
            return
        if self._base is None:
            self._check(snapshot)
            if not self._ledger.num_tokens:
                self._ledger = Ledger(self.shape.num_entries, start=snapshot.num_tokens)
        settled = self._ledger.settle(snapshot.num_tokens)
        if settled is None:
            self._skip(snapshot)
            return
        base, self._base = self._base, snapshot
        predicted_X, num_tokens = settled
        if base is None or not num_tokens:
            return
        observed_LE = snapshot.loads.total.before_LE - base.loads.total.before_LE
        self._feedback.update(predicted_X.reshape(observed_LE.shape), observed_LE, num_tokens)
        self.num_feedback += 1

    @property
    def error(self) -> dict[str, float]:
        """1 - recent mean cosine with the observed loads: "plain", "corrected", "mean"; empty before any feedback."""
        if not self.num_feedback:
            return {}
        cosines = self._feedback.cosines
        return {
            "plain": 1.0 - cosines["predicted"],
            "corrected": 1.0 - cosines["corrected"],
            "mean": 1.0 - cosines["mean"],
        }

    def _check(self, snapshot: LoadsSnapshot) -> None:
        if self._prior is not None:
            found = Shape.of(snapshot.loads)
            shape_of_prior(self._prior).check("evenmoe.scheduling.prior", self._prior_path, found)

    def _skip(self, snapshot: LoadsSnapshot) -> None:
        """A snapshot that ends at no step; the next that does covers its tokens as well."""
        self._unaligned = snapshot
        self.num_unaligned += 1
        if self.num_unaligned == 1:
            logger.warning(
                "loads of %d tokens end at no step of the scheduler, which has handed out %d: not compared",
                snapshot.num_tokens,
                self._ledger.num_tokens,
            )

    def _scaled(self, load_X: NDArray[np.float32]) -> Rate:
        """[X]: K in each layer, in the proportions of the load; even where it has none."""
        load_LE = load_X.reshape(self.shape.num_layers, self.shape.num_experts).astype(np.float64)
        total_L1 = load_LE.sum(-1, keepdims=True)
        load_LE = np.where(total_L1 > 0, load_LE, 1.0)
        rate_LE = load_LE / load_LE.sum(-1, keepdims=True) * self.shape.top_k
        return np.asarray(rate_LE, dtype=np.float32).reshape(-1)


def read_prior(config: SchedulingConfig) -> TokenPrior | None:
    """The token prior of a configuration; None where it has none. Raises as `read_token_prior`."""
    return None if config.prior is None else read_token_prior(config.prior)


def shape_of_prior(prior: Predictor) -> Shape:
    """The model a predictor is for."""
    return Shape(num_layers=prior.num_layers, num_experts=prior.num_experts, top_k=prior.top_k)


class _Even:
    """A predictor that knows nothing; what feedback makes of it is the mean of what was observed."""

    def __init__(self, shape: Shape) -> None:
        self.num_layers, self.num_experts, self.top_k = shape.num_layers, shape.num_experts, shape.top_k

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: K of E, everywhere alike."""
        return np.full(
            (self.num_layers, self.num_experts), len(as_ids(ids_T)) * self.top_k / self.num_experts
        )
