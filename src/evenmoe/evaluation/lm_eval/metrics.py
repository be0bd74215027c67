"""From lm-eval's results to scores: which metric is the main one, and what each item scored by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from evenmoe.errors import ConfigError
from evenmoe.evaluation.lm_eval.finding import Unit
from evenmoe.evaluation.scoring import ItemScore

PREFERRED = ("acc_norm", "acc", "exact_match")
"""The main metric of a task that no suite names one for: the first of these that it has, else its own first."""


def main_metric(metrics: Sequence[str], wanted: str | None) -> str:
    """Return lm-eval's key of a metric, "name,filter", out of those a task has.

    wanted: "name" or "name,filter"; None: the first of PREFERRED, else the first. Raises ConfigError for none such.
    """
    if wanted is None:
        names = [metric.split(",")[0] for metric in metrics]
        return metrics[next((names.index(name) for name in PREFERRED if name in names), 0)]
    for metric in metrics:
        if metric == wanted or metric.split(",")[0] == wanted:
            return metric
    raise ConfigError("metric", wanted, "one of " + ", ".join(metrics))


def short_name(metric: str) -> str:
    """The metric as people write it: without lm-eval's filter where that is "none"."""
    return metric.removesuffix(",none")


def metrics_of(results: Mapping[str, Any]) -> list[str]:
    """Keys of the metrics in lm-eval's results of one task or group."""
    return [key for key in results if "," in key and "_stderr," not in key]


def stderr_of(unit: Unit, results: Mapping[str, Any], metric: str) -> float | None:
    """lm-eval's standard error; None where the metric is no mean over items, and for a single item."""
    name, filtered = metric.split(",", 1)
    if any(task.aggregation().get(name) is not mean for task in unit.tasks.values()):
        return None
    value = results.get(f"{name}_stderr,{filtered}")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def item_scores(
    unit: Unit, samples: Mapping[str, Sequence[Mapping[str, Any]]], metric: str
) -> list[ItemScore]:
    """Return what each item of a unit scored, task by task in the order of its documents.

    Items of a group carry their task as `group`, without the group's own name before it.
    """
    name, filtered = metric.split(",", 1)
    items = []
    for task_name, task in unit.tasks.items():
        part = "" if unit.group is None else task_name.removeprefix(f"{unit.name}_")
        kept = [sample for sample in samples[task_name] if sample["filter"] == filtered]
        for sample in sorted(kept, key=lambda sample: int(sample["doc_id"])):
            number = str(sample["doc_id"])
            items.append(
                ItemScore(
                    item=f"{part}/{number}" if part else number,
                    score=_number(name, sample[name]),
                    group=part,
                    answer=_answer(task, sample, name),
                )
            )
    return items


def _number(metric: str, value: Any) -> float:
    """One item's value; of a pair, as (log-likelihood, words), the first per unit of the second."""
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value)):
        return float(value[0] / value[1])
    if _is_number(value):
        return float(value)
    raise ConfigError("metric", metric, "one that gives each item a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def _answer(task: Task, sample: Mapping[str, Any], metric: str) -> str:
    """What the model chose or said, as text; "" where that is neither."""
    if task.OUTPUT_TYPE == "generate_until":
        return str(sample["filtered_resps"][0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return ""
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    likelihoods = np.array([response[0] for response in sample["filtered_resps"]][: len(choices)])
    lengths = {"acc_norm": map(len, choices), "acc_bytes": (len(choice.encode()) for choice in choices)}
    per = np.array([float(length) for length in lengths.get(metric, [1] * len(choices))])
    return choices[int(np.argmax(likelihoods / per))]
