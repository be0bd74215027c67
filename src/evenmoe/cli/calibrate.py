"""`evenmoe calibrate`: measure this machine, for predictions of layer times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from evenmoe.cli.console import progress_bar, stderr, stdout
from evenmoe.cli.options import JsonOption, SeedOption

if TYPE_CHECKING:
    from evenmoe.costs import Machine


def calibrate(
    shape: Annotated[
        list[str],
        typer.Option(
            help="olmoe, deepseek-v2-lite, qwen1.5-moe, mixtral, or a config.json (repeatable).",
        ),
    ] = ["olmoe"],  # noqa: B006 (typer copies it)
    ranks: Annotated[
        int, typer.Option(help="Processes that measure at the same time and exchange; 1: no link.", min=1)
    ] = 2,
    threads: Annotated[int, typer.Option(help="Threads of each process.", min=1)] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    implementation: Annotated[
        str, typer.Option("--experts", help="transformers' experts implementation: eager or grouped_mm.")
    ] = "eager",
    seconds: Annotated[float, typer.Option(help="Time for measuring, all shapes together.", min=0)] = 100.0,
    name: Annotated[str, typer.Option(help="What to call the machine. Default: its processor.")] = "",
    out: Annotated[Path, typer.Option(help="Where the machine's file goes.")] = Path("machine.json"),
    seed: SeedOption = 0,
    json: JsonOption = None,
) -> None:
    """Measure what the phases of an MoE layer cost here, and write it to a file that predicts layer times.

    Each rank should have a core per thread to itself, and the machine little else to do.

    Example: evenmoe calibrate --shape olmoe --shape mixtral --ranks 2 --out machine.json
    """
    from evenmoe.costs import read_shape
    from evenmoe.costs.calibrate import calibrate as measure_machine
    from evenmoe.costs.plan import CalibrationConfig

    config = CalibrationConfig(
        shapes=tuple(read_shape(name_or_file) for name_or_file in shape),
        num_ranks=ranks,
        threads=threads,
        dtype=cast(Any, dtype),
        implementation=implementation,
        budget_s=seconds,
        seed=seed,
        name=name,
    )
    start = time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task("starting", total=len(config.shapes))

        def announce(description: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=description)

        try:
            machine = measure_machine(config, announce)
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Nothing was written.")
            raise typer.Exit(130) from None
    machine.write(out)
    if json:
        machine.write(json)
    _print(machine)
    stdout.print(f"{time.perf_counter() - start:.0f} s. Machine: {out}", soft_wrap=True, highlight=False)


def _print(machine: Machine) -> None:
    title = f"{machine.name}, {machine.ranks} rank(s) of {machine.threads} thread(s)"
    table = Table(title=title, title_justify="left")
    table.add_column("time of", overflow="fold")
    for column in ("fixed ms", "per unit"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in _rows(machine):
        table.add_row(*row)
    stdout.print(table)
    for curve in machine.experts:
        knots = ", ".join(f"{n:g}: {time_ms:.3g}" for n, time_ms in curve.knots)
        stdout.print(
            f"Expert {curve.hidden} x {curve.intermediate}, ms by tokens: {knots}. The straight line above is off by "
            f"{curve.fit_error:.0%} in the median; predictions follow the knots.",
            highlight=False,
        )
    if machine.heldout is not None:
        held = machine.heldout
        stdout.print(
            f"Held out: the experts of {len(held.points)} layers of random loads, predicted within "
            f"{held.median_error:.1%} in the median, {held.largest_error:.1%} at most.",
            highlight=False,
        )


def _rows(machine: Machine) -> Iterator[tuple[str, str, str]]:
    for curve in machine.experts:
        size = f"expert {curve.hidden} x {curve.intermediate} {curve.dtype} ({curve.implementation})"
        yield size, f"{curve.fixed_ms:.3g}", f"{curve.per_token_ms * 1000:.3g} us / token"
    yield "a call of the experts", f"{machine.expert_call_ms:.3g}", ""
    for gate in machine.gates:
        size = f"gate {gate.hidden} x {gate.num_experts}, top-{gate.top_k}"
        yield size, f"{gate.fixed_ms:.3g}", f"{gate.per_token_ms * 1000:.3g} us / token"
    for name, policy in machine.policies.items():
        yield f"policy {name}", f"{policy.fixed_ms:.3g}", f"{policy.per_pair_ms * 1000:.3g} us / pair"
    for name, transfer in (("pack", machine.pack), ("unpack", machine.unpack), ("link", machine.link)):
        if transfer is not None:
            yield name, f"{transfer.fixed_ms:.3g}", f"{transfer.bytes_per_s / 1e9:.3g} GB/s"
    if machine.link is not None:
        yield "counts, with dispatch", f"{machine.dispatch_exchanges_ms:.3g}", ""
        yield "barrier", f"{machine.barrier_ms:.3g}", ""
