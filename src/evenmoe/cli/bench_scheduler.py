"""`evenmoe bench scheduler`: how long a scheduling decision takes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenmoe.cli.console import stderr, stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.scheduling.benchmark import BenchRow, Case


def scheduler(
    batch_size: Annotated[
        int | None, typer.Option(help="Time one size only: requests of a batch.", min=1)
    ] = None,
    window: Annotated[int | None, typer.Option(help="... of a window of this many.", min=2)] = None,
    entries: Annotated[int | None, typer.Option(help="... experts or devices of a layer.", min=1)] = None,
    layers: Annotated[int | None, typer.Option(help="... layers of a load vector.", min=1)] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="Strategy (repeatable). Default: all. fcfs is always timed.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Counted decisions of each; they take turns.", min=1)] = 50,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Time a decision of every strategy, and how it grows with window and dimension, beside fcfs in the same run."""
    from evenmoe.evaluation.results import versions
    from evenmoe.scheduling.benchmark import GROWTH, LARGE, SMALL, bench_scheduler
    from evenmoe.scheduling.selecting import STRATEGIES

    sizes = {"batch_size": batch_size, "window": window, "entries": entries, "num_layers": layers}
    given = {name: value for name, value in sizes.items() if value is not None}
    cases = (dataclasses.replace(SMALL, **given),) if given else (SMALL, *GROWTH, LARGE)
    with stderr.status("Timing ...") as status:

        def announce(case: Case) -> None:
            status.update(f"Timing batch {case.batch_size} of {case.window}, {case.length} entries ...")

        rows = bench_scheduler(cases, strategy or STRATEGIES, repeats, seed, announce)
    for case in cases:
        _print(case, [row for row in rows if _size(row) == dataclasses.astuple(case)], repeats)
    if json:
        config = {"cases": [dataclasses.asdict(case) for case in cases], "repeats": repeats, "seed": seed}
        body = {"config": config, "versions": versions(), "rows": [dataclasses.asdict(row) for row in rows]}
        write_json(json, body)


def _size(row: BenchRow) -> tuple[int, int, int, int]:
    return row.batch_size, row.window, row.entries, row.num_layers


def _print(case: Case, rows: list[BenchRow], repeats: int) -> None:
    title = (
        f"Batch {case.batch_size}, window {case.window}, {case.num_layers} layer(s) of {case.entries}, "
        f"{repeats} decisions"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for name in ("median ms", "best ms", "CPU ms", "median / fcfs"):
        table.add_column(name, justify="right")
    for row in rows:
        times = (f"{value:.3f}" for value in (row.median_ms, row.best_ms, row.cpu_ms))
        table.add_row(row.strategy, *times, f"{row.ratio_to_fcfs:.2f}")
    stdout.print(table)
