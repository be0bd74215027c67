"""Predictors: what a request will ask of each expert, before it runs. numpy only."""

from evenmoe.scheduling.predictors.accuracy import Accuracy, cosine, measure_accuracy, top_overlap
from evenmoe.scheduling.predictors.calibration import Calibrated, Calibration, fit_calibration
from evenmoe.scheduling.predictors.feedback import Feedback
from evenmoe.scheduling.predictors.fitting import RecordedPrompts, fit_token_prior
from evenmoe.scheduling.predictors.history import History
from evenmoe.scheduling.predictors.predictor import Predictor
from evenmoe.scheduling.predictors.prior_files import read_token_prior
from evenmoe.scheduling.predictors.token_counts import TokenCounter, TokenCounts, sum_counts
from evenmoe.scheduling.predictors.token_prior import TokenPrior

__all__ = [
    "Accuracy",
    "Calibrated",
    "Calibration",
    "Feedback",
    "History",
    "Predictor",
    "RecordedPrompts",
    "TokenCounter",
    "TokenCounts",
    "TokenPrior",
    "cosine",
    "fit_calibration",
    "fit_token_prior",
    "measure_accuracy",
    "read_token_prior",
    "sum_counts",
    "top_overlap",
]
