"""`evenmoe bench simulator`: how many requests per second the simulator serves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenmoe.cli.console import progress_bar, stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.simulation.benchmark import BenchRow


def simulator(
    requests: Annotated[int, typer.Option(help="Requests of each run.", min=1)] = 3000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="static/cv, static/straggler or continuous/straggler (repeatable). Default: all three."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="Strategy (repeatable); fcfs always runs. Default: fcfs, greedy_variance, auto."),
    ] = None,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Time simulated requests by kind of batching, execution model and strategy, and show the memory that they take."""
    from evenmoe.evaluation.results import versions
    from evenmoe.simulation.benchmark import BENCH_MODELS, bench_simulator

    with progress_bar() as progress:
        task = progress.add_task("starting", total=requests)

        def announce(name: str, of: str) -> None:
            progress.update(task, completed=0, description=f"{name}, {of}")

        rows = bench_simulator(
            model or BENCH_MODELS,
            strategy or ("greedy_variance", "auto"),
            requests,
            seed,
            announce,
            lambda done: progress.update(task, completed=done),
        )
    stdout.print(_table(rows))
    if json:
        config = {"requests": requests, "seed": seed}
        body = {"config": config, "versions": versions(), "rows": [dataclasses.asdict(row) for row in rows]}
        write_json(json, body)


def _table(rows: list[BenchRow]) -> Table:
    table = Table(title=f"{rows[0].requests} requests a run, one process", title_justify="left")
    for name in ("model", "strategy"):
        table.add_column(name)
    for name in ("req/s", "CPU us", "/ fcfs", "busy", "MB"):
        table.add_column(name, justify="right")
    for index, row in enumerate(rows):
        table.add_row(
            row.model,
            row.strategy,
            f"{row.requests_per_wall_s:.0f}",
            f"{row.cpu_us_per_request:.0f}",
            f"{row.ratio_to_fcfs:.2f}",
            "over" if row.overloaded else f"{row.utilisation:.0%}",
            f"{row.peak_mb:.0f}",
            end_section=index + 1 < len(rows) and rows[index + 1].model != row.model,
        )
    return table
