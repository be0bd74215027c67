"""What VLMEvalKit writes when it evaluates a benchmark: a hit or a miss for each item, and figures of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vlmeval.smp import get_intermediate_file_path, get_pred_file_path, load

from evenmoe.evaluation.scoring import ItemScore, TaskScore
from evenmoe.evaluation.vision.suites import scene_tasks

JUDGE = "exact_matching"
RECORDS = {"MCQ": (f"_{JUDGE}_result", "hit"), "Y/N": ("_auxmatch", "score")}
"""By the kind of benchmark: the suffix of the file with a row per item, and the column with its score."""

GROUPS = ("l2-category", "category")
"""The columns that say which part of a benchmark an item belongs to; the first that it has counts."""

MME_COGNITION = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
"""The categories of MME's score "reasoning"; all others make "perception"."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One score, with those of its items."""

    score: TaskScore
    items: tuple[ItemScore, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A benchmark as VLMEvalKit scored it.

    rows: one per item in the benchmark's order, with "index" and "score". figures: its own table, by name.
    """

    rows: Sequence[Mapping[str, Any]]
    figures: Mapping[str, float]


def evaluate(benchmark: Any, folder: Path, model_name: str) -> Evaluated:
    """Let VLMEvalKit score the predictions that it keeps in `folder`, matching answers by rules."""
    file = get_pred_file_path(str(folder), model_name, benchmark.dataset_name)
    table = benchmark.evaluate(file, model=JUDGE, nproc=1)
    suffix, column = RECORDS[benchmark.TYPE]
    rows = load(get_intermediate_file_path(file, suffix)).to_dict("records")
    place = {str(index): at for at, index in enumerate(benchmark.data["index"])}
    rows.sort(key=lambda row: place[str(row["index"])])
    figures = {str(name): float(value) for name, value in table.iloc[0].items() if not isinstance(value, str)}
    return Evaluated(rows=[{**row, "score": float(row[column])} for row in rows], figures=figures)


def scored(name: str, found: Evaluated, said: Mapping[str, str]) -> list[Scored]:
    """Return a benchmark's score: the share of hits, or MME's two, which are sums over categories.

    said: the model's own words by the item's index.
    """
    if name != "MME":
        return [_share(name, "accuracy", found.rows, said)]
    parts = {"perception": False, "reasoning": True}
    return [
        _sum(f"{name}_{part}", found.figures[part], rows, said)
        for part, is_cognition in parts.items()
        if (rows := [row for row in found.rows if (row["category"] in MME_COGNITION) is is_cognition])
    ]


def scored_scenes(found: Evaluated, said: Mapping[str, str]) -> list[Scored]:
    """Return a score for each question family of the bundled scenes, the kinds of question being groups of items."""
    return [
        _share(task, "exact_match", rows, said, group="category")
        for task, family in scene_tasks().items()
        if (rows := [row for row in found.rows if row["l2-category"] == family])
    ]


def _share(
    task: str,
    metric: str,
    rows: Sequence[Mapping[str, Any]],
    said: Mapping[str, str],
    group: str | None = None,
) -> Scored:
    items = tuple(_item(row, said, group) for row in rows)
    scores = [item.score for item in items]
    stderr = float(np.std(scores, ddof=1) / math.sqrt(len(scores))) if len(scores) > 1 else None
    return Scored(score=_task(task, metric, float(np.mean(scores)), stderr, len(items)), items=items)


def _sum(task: str, figure: float, rows: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> Scored:
    items = tuple(_item(row, said, "category") for row in rows)
    return Scored(score=_task(task, "MME score", figure, None, len(items)), items=items)


def _task(task: str, metric: str, score: float, stderr: float | None, num_items: int) -> TaskScore:
    return TaskScore(
        task=task,
        metric=metric,
        num_fewshot=0,
        num_items=num_items,
        score=score,
        stderr=stderr,
        items_file=f"items/{task}.jsonl",
    )


def _item(row: Mapping[str, Any], said: Mapping[str, str], group: str | None) -> ItemScore:
    index = str(row["index"])
    column = group or next((name for name in GROUPS if name in row), None)
    return ItemScore(
        item=index, score=row["score"], group="" if column is None else str(row[column]), answer=said[index]
    )
