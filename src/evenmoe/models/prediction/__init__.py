"""Predictors that ask the model itself, and the learning of one that does not."""

from evenmoe.models.prediction.alone import Alone
from evenmoe.models.prediction.full import FullPrefill
from evenmoe.models.prediction.gates import Gates
from evenmoe.models.prediction.learning import ChoiceListener, learn_token_prior, record_prompts
from evenmoe.models.prediction.running import true_loads

__all__ = [
    "Alone",
    "ChoiceListener",
    "FullPrefill",
    "Gates",
    "learn_token_prior",
    "record_prompts",
    "true_loads",
]
