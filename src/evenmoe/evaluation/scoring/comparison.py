"""Several policies' scores beside each other, as data: what tables and files of a comparison are drawn from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from evenmoe.evaluation.scoring.results import LoadFigures


class TaskComparison(BaseModel):
    """One task under one policy. Differences are to the baseline on the same items; None in the baseline's own row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float
    stderr: float | None
    difference: float | None
    difference_stderr: float | None
    """Standard error of the difference over paired items."""
    num_better: int | None
    """Items that score higher than in the baseline."""
    num_worse: int | None


class PolicyRow(BaseModel):
    """One policy over all tasks, which are in the order of `Comparison.tasks`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    policy: str
    gamma: float | None
    folder: str
    tasks: tuple[TaskComparison, ...]
    mean: TaskComparison | None
    """Unweighted over tasks; its items are those of all tasks. None where tasks are on different scales."""
    loads: LoadFigures | None


class ComparedTask(BaseModel):
    """What a column of the comparison stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    metric: str
    num_fewshot: int
    num_items: int
    share: bool
    """Whether scores are between 0 and 1, to be shown in per cent."""


class Comparison(BaseModel):
    """Policies of one model on the same items in the same batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["evenmoe.eval-comparison"] = "evenmoe.eval-comparison"
    version: Literal[1] = 1
    model: str
    harness: str
    config: dict[str, Any]
    """What all evaluations share."""
    batches: dict[str, Any]
    versions: dict[str, str]
    allowed: tuple[str, ...]
    """What differs all the same, because the caller allowed it."""
    tasks: tuple[ComparedTask, ...]
    rows: tuple[PolicyRow, ...]
