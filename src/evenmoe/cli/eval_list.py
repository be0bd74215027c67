"""`evenmoe eval ls`: suites, their tasks, and what of their data is on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from evenmoe.cli.console import stderr, stdout, write_json
from evenmoe.cli.options import JsonOption


def list_tasks(json: JsonOption = None) -> None:
    """List the suites with their tasks, shots and metrics, and whether each task's data is on this machine.

    Any other task of lm-eval runs too: `lm-eval ls tasks` lists them.
    """
    from evenmoe.evaluation.lm_eval.finding import data_is_local, dataset_of, task_manager
    from evenmoe.evaluation.lm_eval.suites import SUITES

    rows = []
    with stderr.status("Looking for data ..."):
        for suite in SUITES.values():
            manager = task_manager(suite.tasks, None)
            for task in suite.tasks:
                rows.append(
                    {
                        "suite": suite.name,
                        "task": task.name,
                        "num_fewshot": task.num_fewshot,
                        "metric": task.metric,
                        "dataset": dataset_of(task.name, manager) or "ships with evenmoe",
                        "local": data_is_local(task.name, manager),
                    }
                )
    for suite in SUITES.values():
        stdout.print(_table(suite.name, suite.about, [row for row in rows if row["suite"] == suite.name]))
    if json:
        write_json(json, rows)


def _table(name: str, about: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=f"{name}: {about}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("shots", justify="right")
    table.add_column("metric", no_wrap=True)
    table.add_column("data")
    table.add_column("here", no_wrap=True)
    for row in rows:
        here = {True: "yes", False: "no", None: "?"}[row["local"]]
        table.add_row(row["task"], str(row["num_fewshot"]), row["metric"], row["dataset"], here)
    return table
