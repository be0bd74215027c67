"""Tables of a comparison of evaluations: policies down, tasks and their mean across, as in the paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from evenmoe.evaluation.scoring.comparison import Comparison, PolicyRow, TaskComparison

_LOOKS: Any = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "caption_justify": "left"}
_GAP = 2
"""Columns of the terminal between two columns of such a table."""
LEGEND = (
    "Second line: difference to no limit on the same items ± its standard error. drop: top-k assignments that did not "
    "run; straggler: busiest device over the even load of all assignments."
)
CSV_FIELDS = (
    "policy", "gamma", "label", "task", "metric", "num_fewshot", "num_items", "score", "stderr", "difference",
    "difference_stderr", "num_better", "num_worse", "drop_rate", "straggler_factor", "folder",
)  # fmt: skip
MEAN = "mean"


@dataclass(frozen=True)
class _Column:
    """A column and its cell, of two lines: the figure, and the change to the baseline or nothing."""

    name: str
    cell: Callable[[PolicyRow], tuple[str, str]]


def comparison_tables(comparison: Comparison, width: int) -> list[Table]:
    """As many tables as the columns need in a terminal of `width`: the mean and the loads first, then the tasks."""
    columns = [*_mean_column(comparison), *_LOAD_COLUMNS, *_task_columns(comparison)]
    room = width - max(len(row.label) for row in comparison.rows) - 2 * _GAP
    chunks = list(_chunks(columns, comparison.rows, room))
    return [_table(chunk, comparison.rows, LEGEND if chunk is chunks[-1] else None) for chunk in chunks]


def comparison_markdown(comparison: Comparison) -> str:
    """The whole comparison as one Markdown table: "score (change ± standard error)", tasks first, then the mean."""
    columns = [*_task_columns(comparison), *_mean_column(comparison), *_LOAD_COLUMNS]
    lines = [
        "| policy | " + " | ".join(column.name for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for row in comparison.rows:
        cells = [
            f"{figure} ({change})" if change else figure
            for figure, change in (column.cell(row) for column in columns)
        ]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison_csv(comparison: Comparison) -> str:
    """One line per policy and task, and one for the mean if there is one; shares as they are, not in per cent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        described = [task.model_dump(exclude={"share"}) for task in comparison.tasks]
        cells, loads = list(row.tasks), row.loads
        if row.mean is not None:
            described.append({"task": MEAN, "num_items": sum(task.num_items for task in comparison.tasks)})
            cells.append(row.mean)
        for about, cell in zip(described, cells, strict=True):
            writer.writerow(
                row.model_dump(include={"policy", "gamma", "label", "folder"})
                | about
                | cell.model_dump()
                | {
                    "drop_rate": loads.drop_rate if loads else None,
                    "straggler_factor": loads.straggler_factor if loads else None,
                }
            )
    return text.getvalue()


def _table(columns: Sequence[_Column], rows: Sequence[PolicyRow], caption: str | None) -> Table:
    table = Table(caption=caption, **_LOOKS)
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.label, *("\n".join(filter(None, column.cell(row))) for column in columns))
    return table


def _chunks(columns: Sequence[_Column], rows: Sequence[PolicyRow], room: int) -> Iterator[list[_Column]]:
    """Columns in turn, as many as fit; at least one each time."""
    chunk: list[_Column] = []
    left = room
    for column in columns:
        needed = _GAP + max(len(column.name), *(len(line) for row in rows for line in column.cell(row)))
        if chunk and needed > left:
            yield chunk
            chunk, left = [], room
        chunk.append(column)
        left -= needed
    yield chunk


def _task_columns(comparison: Comparison) -> list[_Column]:
    names = short_task_names([task.task for task in comparison.tasks])

    def column(index: int, name: str, share: bool) -> _Column:
        return _Column(name, lambda row: _score_cell(row.tasks[index], share))

    return [
        column(index, name, task.share)
        for index, (name, task) in enumerate(zip(names, comparison.tasks, strict=True))
    ]


def _mean_column(comparison: Comparison) -> list[_Column]:
    """The mean, or nothing where there is none."""
    share = all(task.share for task in comparison.tasks)
    if any(row.mean is None for row in comparison.rows):
        return []
    return [_Column(MEAN, lambda row: _score_cell(row.mean, share) if row.mean else ("", ""))]


def _score_cell(cell: TaskComparison, share: bool) -> tuple[str, str]:
    """Scores between 0 and 1 in per cent, to a tenth; others as they are."""
    scale = 100 if share else 1
    score = f"{scale * cell.score:.1f}"
    if cell.difference is None:
        return score, f"± {scale * cell.stderr:.1f}" if cell.stderr is not None else ""
    change = f"{scale * cell.difference:+.1f}"
    return (
        score,
        change if cell.difference_stderr is None else f"{change} ± {scale * cell.difference_stderr:.1f}",
    )


def _of_loads(text: Callable[[PolicyRow], str]) -> Callable[[PolicyRow], tuple[str, str]]:
    return lambda row: (text(row) if row.loads is not None else "", "")


_LOAD_COLUMNS = (
    _Column("drop %", _of_loads(lambda row: f"{100 * row.loads.drop_rate:.1f}" if row.loads else "")),
    _Column("straggler", _of_loads(lambda row: f"{row.loads.straggler_factor:.2f}" if row.loads else "")),
)


def short_task_names(names: Sequence[str]) -> list[str]:
    """Names without the words that all begin with: "evenmoe_bundled_go" is "go" among its like."""
    parts = [name.split("_") for name in names]
    common = 0
    if len(names) > 1:
        for words in zip(*(part[:-1] for part in parts), strict=False):
            if len(set(words)) > 1:
                break
            common += 1
    return ["_".join(part[common:]) for part in parts]
