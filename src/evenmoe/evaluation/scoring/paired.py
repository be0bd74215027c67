"""Statistics of scores of single items, and of two policies' scores of the same items. I: items, N: tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evenmoe.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its standard error; None where nothing tells how sure it is, as with a single item."""

    value: float
    stderr: float | None


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """One policy's scores minus another's, item by item."""

    difference: Estimate
    num_better: int
    """Items on which the score is higher."""
    num_worse: int


def mean_of_items(scores_I: Sequence[float]) -> Estimate:
    """Mean and its standard error, sqrt(sum((s - mean)^2) / (I - 1) / I). Raises ShapeError for no items."""
    if not len(scores_I):
        raise ShapeError("a mean needs at least one item")
    values_I = np.asarray(scores_I, dtype=np.float64)
    num = len(values_I)
    stderr = float(values_I.std(ddof=1)) / math.sqrt(num) if num > 1 else None
    return Estimate(value=float(values_I.mean()), stderr=stderr)


def paired_difference(scores_I: Sequence[float], base_I: Sequence[float]) -> PairedDifference:
    """Mean of the differences on the same items, with the standard error of that mean.

    What both get right or wrong adds nothing to that standard error, so that it is far smaller than the scores' own.
    Raises ShapeError unless both have the same number of items, and at least one.
    """
    if len(scores_I) != len(base_I):
        raise ShapeError(f"a paired difference needs the same items, got {len(scores_I)} and {len(base_I)}")
    difference_I = np.asarray(scores_I, dtype=np.float64) - np.asarray(base_I, dtype=np.float64)
    return PairedDifference(
        difference=mean_of_items(difference_I.tolist()),
        num_better=int((difference_I > 0).sum()),
        num_worse=int((difference_I < 0).sum()),
    )


def mean_of_tasks(tasks_N: Sequence[Estimate]) -> Estimate:
    """Unweighted mean over tasks, whose items were drawn apart from each other: sqrt(sum(stderr^2)) / N.

    The standard error is None where a task has none. Raises ShapeError for no tasks.
    """
    if not tasks_N:
        raise ShapeError("a mean needs at least one task")
    value = sum(task.value for task in tasks_N) / len(tasks_N)
    known = [task.stderr for task in tasks_N if task.stderr is not None]
    stderr = math.sqrt(sum(error**2 for error in known)) / len(tasks_N)
    return Estimate(value=value, stderr=stderr if len(known) == len(tasks_N) else None)
