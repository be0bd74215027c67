"""`evenmoe bench admission`: what choosing among the waiting adds to a serving engine's step."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenmoe.cli.console import stderr, stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption
from evenmoe.errors import check_choice

if TYPE_CHECKING:
    from evenmoe.serving.admission.benchmark import BenchRow, Case


def admission(
    waiting: Annotated[int, typer.Option(help="Requests that wait, all the time.", min=1)] = 256,
    strategy: Annotated[list[str] | None, typer.Option(help="Strategy (repeatable).")] = None,
    engine: Annotated[
        str, typer.Option(help="admission: ours alone. vllm: in vLLM's scheduler, without a model.")
    ] = "admission",
    model: Annotated[
        list[str] | None, typer.Option(help="One of the models only (repeatable), such as bundled:text.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Counted steps of each; they take turns.", min=2)] = 300,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Time the scheduling of a step, predictions and feedback included, beside fcfs in the same run, in CPU time."""
    from evenmoe.evaluation.results import versions
    from evenmoe.serving.admission.benchmark import CASES, STRATEGIES, AdmissionEngine, bench_admission

    check_choice("engine", engine, ("admission", "vllm"))
    for name in model or ():
        check_choice("model", name, [case.name for case in CASES])
    cases = tuple(
        dataclasses.replace(case, waiting=waiting) for case in CASES if not model or case.name in model
    )
    with stderr.status("Timing ...") as status:

        def announce(case: Case) -> None:
            status.update(f"Timing {case.name} ...")

        if engine == "vllm":
            from evenmoe.serving.vllm.benchmark import bench_vllm

            rows = bench_vllm(cases, strategy or STRATEGIES, steps, seed, announce)
        else:
            rows = bench_admission(cases, strategy or STRATEGIES, steps, seed, AdmissionEngine, announce)
    _print(rows, f"{waiting} waiting, {steps} steps, {engine}: CPU time of a step's scheduling")
    if json:
        config = {"waiting": waiting, "engine": engine, "steps": steps, "seed": seed}
        body = {"config": config | {"cases": [dataclasses.asdict(case) for case in cases]}}
        write_json(json, body | {"versions": versions(), "rows": [dataclasses.asdict(row) for row in rows]})


def _print(rows: list[BenchRow], title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    table.add_column("strategy")
    for name in ("mean ms", "median ms", "99% ms", "more than fcfs, no predictor"):
        table.add_column(name, justify="right")
    for case, group in groupby(rows, key=lambda row: row.case):
        members = list(group)
        for row in members:
            times = (f"{value:.3f}" for value in (row.mean_ms, row.median_ms, row.p99_ms, row.added_ms))
            table.add_row(
                case if row is members[0] else "", row.strategy, *times, end_section=row is members[-1]
            )
    stdout.print(table)
