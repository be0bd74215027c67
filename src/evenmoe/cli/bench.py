"""`evenmoe bench`: timings, each beside a reference measured in the same run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from evenmoe.cli import (
    bench_admission,
    bench_layer,
    bench_model,
    bench_saving,
    bench_scheduler,
    bench_simulator,
)
from evenmoe.cli.console import stderr, stdout, write_json
from evenmoe.cli.options import JsonOption, SeedOption

app = typer.Typer(help="Time things, each beside a reference in the same run.", no_args_is_help=True)
app.command("layer")(bench_layer.layer)
app.command("model")(bench_model.model)
app.command("scheduler")(bench_scheduler.scheduler)
app.command("simulator")(bench_simulator.simulator)
app.command("saving")(bench_saving.saving)
app.command("admission")(bench_admission.admission)


@app.callback()
def bench() -> None:
    """Keep `routing` a sub-command of its own: more follow."""


@app.command("routing")
def routing(
    tokens: Annotated[list[int], typer.Option(help="Tokens in the batch (repeatable).")] = [4096, 32768],  # noqa: B006
    experts: Annotated[int, typer.Option(min=1)] = 64,
    top_k: Annotated[int, typer.Option(min=1)] = 8,
    devices: Annotated[int, typer.Option(min=1)] = 8,
    gamma: Annotated[float, typer.Option(help="Capacity factor.")] = 1.0,
    repeats: Annotated[int, typer.Option(help="Counted runs of each; they take turns.", min=1)] = 50,
    threads: Annotated[int, typer.Option(help="Threads of the CPU.", min=1)] = 1,
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Time every routing policy beside a plain top-k: what it adds to the model's own routing, in milliseconds."""
    import torch

    from evenmoe.evaluation.results import versions
    from evenmoe.routing.benchmark import bench_routing

    torch.set_num_threads(threads)
    settings = {"experts": experts, "top_k": top_k, "devices": devices, "gamma": gamma, "seed": seed}
    with stderr.status("Timing ..."):
        rows = bench_routing(
            tokens=tuple(tokens),
            experts=experts,
            top_k=top_k,
            devices=devices,
            gamma=gamma,
            repeats=repeats,
            seed=seed,
        )
    title = f"E {experts}, K {top_k}, D {devices}, γ {gamma:g}, {threads} thread(s), {repeats} runs"
    table = Table(title=title, title_justify="left")
    for name, justify in (("policy", "left"), ("T", "right"), ("best ms", "right"), ("median ms", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("best / plain top-k", justify="right")
    for index, row in enumerate(rows):
        ends = index + 1 < len(rows) and rows[index + 1].tokens != row.tokens
        figures = f"{row.best_ms:.2f}", f"{row.median_ms:.2f}", f"{row.ratio_to_top_k:.2f}"
        table.add_row(row.name, str(row.tokens), *figures, end_section=ends)
    stdout.print(table)
    if json:
        body = {"config": settings | {"threads": threads, "repeats": repeats}, "versions": versions()}
        body |= {"rows": [dataclasses.asdict(row) for row in rows]}
        write_json(json, body)
