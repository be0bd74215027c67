"""lmms-eval's results as ours: a task's score is its aggregate, and each document has a score of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

from evenmoe.evaluation.scoring import ItemScore, TaskScore

HEADLINES: Mapping[str, tuple[str, ...]] = {
    "mme": ("mme_perception_score", "mme_cognition_score"),
    "seedbench": ("seed_all",),
}
"""The metrics that are reported of a task; of others it is the first that the task lists."""

FULL_SCORES: Mapping[str, float] = {
    "mme_perception_score": 2000.0,
    "mme_cognition_score": 800.0,
    "gpt_eval_score": 100.0,
}
"""The best score by metrics that do not end at 1."""

GROUPS = ("family", "L2-category", "category", "question_type_id", "data_type")
"""What benchmarks call the part of them that a document belongs to; the first that it has counts."""

Aggregate = Callable[[list[Any]], float]


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """A task's score by one metric, with those of its items."""

    score: TaskScore
    items: tuple[ItemScore, ...]


def scored_task(
    task: str, metric: str, whole: Mapping[str, Any], alone: Aggregate, name: str
) -> ScoredTask | None:
    """Read one metric of one task out of what lmms-eval returned; None where no document has it.

    whole: lmms-eval's results. alone: the metric's aggregate over some documents' values. name: what to call it, in
    the result and as a file.
    """
    samples = [sample for sample in whole["samples"][task] if metric in sample]
    if not samples:
        return None
    total = float(_aggregated(whole["results"][task], metric))
    items = tuple(_item(sample, metric, alone) for sample in samples)
    score = TaskScore(
        task=name,
        metric=metric,
        num_fewshot=int(whole["n-shot"].get(task) or 0),
        num_items=len(items),
        score=total,
        stderr=standard_error([item.score for item in items], total),
        items_file=f"items/{name}.jsonl",
    )
    return ScoredTask(score=score, items=items)


def standard_error(scores: Sequence[float], total: float) -> float | None:
    """The standard error of a total that is the mean of the scores; None where it is not, and for one score."""
    if len(scores) < 2 or not math.isclose(float(np.mean(scores)), total, rel_tol=1e-9, abs_tol=1e-9):
        return None
    return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))


def mean_score(scores: Sequence[TaskScore]) -> float | None:
    """The mean over tasks whose metrics end at the same best score; None where they do not."""
    if len({FULL_SCORES.get(score.metric, 1.0) for score in scores}) > 1:
        return None
    return float(np.mean([score.score for score in scores]))


def item_value(value: Any, alone: Aggregate) -> float:
    """A document's own score: the number that the task gave it, or else the metric over this document alone."""
    if isinstance(value, (int, float, np.number)):
        return float(value)
    if isinstance(value, Mapping) and isinstance(value.get("score"), (int, float)):
        return float(value["score"])
    with redirect_stdout(StringIO()):  # some metrics print a table of all categories
        return float(alone([value]))


def _item(sample: Mapping[str, Any], metric: str, alone: Aggregate) -> ItemScore:
    document = sample["doc"]
    group = next((str(document[key]) for key in GROUPS if key in document), "")
    return ItemScore(
        item=str(document.get("id", sample["doc_id"])),
        score=item_value(sample[metric], alone),
        group=group,
        answer=_answer(sample["filtered_resps"]),
    )


def _answer(responses: Sequence[Any]) -> str:
    """The text that was said, or the number of the choice whose loss is the least."""
    if isinstance(responses[0], str):
        return str(responses[0])
    losses = [response[0] for response in responses]
    return str(losses.index(min(losses)))


def _aggregated(row: Mapping[str, Any], metric: str) -> Any:
    return next(value for key, value in row.items() if key.split(",")[0] == metric)
