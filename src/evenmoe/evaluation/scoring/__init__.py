"""Scores of a model on tasks under one policy: configuration, results as data, comparison. No harness, no model."""

from evenmoe.evaluation.scoring.config import EvalConfig
from evenmoe.evaluation.scoring.extras import require_extra
from evenmoe.evaluation.scoring.items import ItemScore, read_items, write_items
from evenmoe.evaluation.scoring.results import EvalResult, LoadFigures, TaskScore, read_eval_result

__all__ = [
    "EvalConfig",
    "EvalResult",
    "ItemScore",
    "LoadFigures",
    "TaskScore",
    "read_eval_result",
    "read_items",
    "require_extra",
    "write_items",
]
