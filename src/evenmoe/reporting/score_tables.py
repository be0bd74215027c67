"""The table of one evaluation: its tasks and their mean, drawn from the result."""

from __future__ import annotations

from rich import box
from rich.table import Table

from evenmoe.evaluation.scoring import EvalResult, TaskScore
from evenmoe.reporting.quality_tables import short_task_names

LEGEND = "drop: top-k assignments that did not run; straggler: busiest device over the even load of all assignments."


def score_table(result: EvalResult) -> Table:
    """Tasks down, scores between 0 and 1 in per cent, their mean last, and how even the run was below."""
    table = Table(
        title=f"{result.config.get('model', '')}: {result.label}",
        caption=_loads_line(result),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("task", no_wrap=True)
    for column in ("shots", "items", "score"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("metric")
    share = all(0 <= task.score <= 1 for task in result.tasks)
    for name, task in zip(short_task_names([task.task for task in result.tasks]), result.tasks, strict=True):
        ends = task is result.tasks[-1]
        row = name, str(task.num_fewshot), str(task.num_items), _score(task, share), task.metric
        table.add_row(*row, end_section=ends)
    if result.mean is not None:
        items = sum(task.num_items for task in result.tasks)
        table.add_row("mean", "", str(items), f"{(100 if share else 1) * result.mean:.1f}", "")
    return table


def _score(task: TaskScore, share: bool) -> str:
    scale = 100 if share else 1
    error = "" if task.stderr is None else f" ± {scale * task.stderr:.1f}"
    return f"{scale * task.score:.1f}{error}"


def _loads_line(result: EvalResult) -> str | None:
    loads = result.loads
    if loads is None:
        return None
    return f"drop {100 * loads.drop_rate:.1f}%, straggler {loads.straggler_factor:.2f}. {LEGEND}"
