"""`evenmoe simulate paper`: the published scheduling study again, and the steady state beside it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenmoe.cli.console import progress_bar, stderr, stdout
from evenmoe.cli.options import JsonOption
from evenmoe.cli.simulate_options import positive_numbers, whole_numbers, words
from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from evenmoe.simulation.studies.paper import PaperConfig
    from evenmoe.simulation.studies.steady import SteadyConfig

SEEDS, RATES = ["42,123,456,789"], ["150,200,250,300"]
PATTERNS, STRATEGIES = ["bursty,poisson"], ["all"]
LOG_COLUMNS = 120


def paper(
    requests: Annotated[int, typer.Option(help="Requests of each run.", min=1)] = 3000,
    seeds: Annotated[list[str], typer.Option(help="Seeds: several values, or a comma list.")] = SEEDS,
    rates: Annotated[
        list[str], typer.Option(help="Requests per second: several values, or a comma list.")
    ] = RATES,
    patterns: Annotated[
        list[str], typer.Option(help="bursty, poisson: several values, or a comma list.")
    ] = PATTERNS,
    strategies: Annotated[
        list[str],
        typer.Option(
            help="Strategies, several values or a comma list; all: the published twelve and ours; "
            "published: the twelve. fcfs is always run."
        ),
    ] = STRATEGIES,
    steady_requests: Annotated[
        int, typer.Option(help="Requests of each run of the steady state; 0: leave it out.", min=0)
    ] = 10_000,
    out: Annotated[Path, typer.Option(help="Folder for results.json, evaluation.log and figures.")] = Path(
        "out/simulate_paper"
    ),
    jobs: Annotated[int | None, typer.Option(help="Processes. Default: one per core.", min=1)] = None,
    json: JsonOption = None,
) -> None:
    """Rerun CAPS's study of scheduling strategies, beside its published figures and a fluid queue's; then what a user
    needs: the steady state under fcfs's own capacity.

    An interrupted study goes on where it stopped when the same command is given again.

    Example: evenmoe simulate paper --seeds 42 123 --rates 150 300 --strategies fcfs random auto --steady-requests 0
    """
    from evenmoe.evaluation.results import versions
    from evenmoe.simulation.studies.paper import PaperConfig
    from evenmoe.simulation.studies.paper_results import (
        check_folder,
        generated_at,
        paper_results,
        write_results,
    )
    from evenmoe.simulation.studies.steady import SteadyConfig

    config = PaperConfig(
        requests=requests,
        seeds=whole_numbers("seeds", seeds),
        rates_per_s=positive_numbers("rates", rates),
        patterns=words(patterns),
        strategies=_strategies(words(strategies)),
    )
    steady = SteadyConfig(requests=steady_requests) if steady_requests else None
    check_folder(out, config, steady)
    known = versions() | {name: version(name) for name in ("simpy", "joblib")}
    generated = generated_at()
    rows, steady_state = _run(config, steady, known, out, jobs)
    body = paper_results(config, rows, steady_state=steady_state, versions=known, generated=generated)
    path = write_results(out / "results.json", body)
    for name in ("cells", "steady"):
        _partial(out, name).unlink(missing_ok=True)
    _report(body, out)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, json)


def _strategies(names: tuple[str, ...]) -> tuple[str, ...]:
    """The strategies that these names mean, fcfs first and each once."""
    from evenmoe.scheduling import selecting

    known = selecting.STRATEGIES
    published = tuple(name for name in known if name not in selecting.OURS)
    groups: Mapping[str, tuple[str, ...]] = {"all": known, "published": published}
    for name in names:
        if name not in groups and name not in known:
            raise ConfigError("strategies", name, "all, published, or any of " + ", ".join(known))
    return tuple(dict.fromkeys(["fcfs", *(each for name in names for each in groups.get(name, (name,)))]))


def _partial(out: Path, name: str) -> Path:
    return out / f"{name}.partial.jsonl"


def _run(
    config: PaperConfig, steady: SteadyConfig | None, known: Mapping[str, str], out: Path, jobs: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The rows of the study, and the steady state, with a progress bar."""
    from evenmoe.simulation.studies.journal import Journal
    from evenmoe.simulation.studies.paper import RunPaperCells
    from evenmoe.simulation.studies.steady import run_steady
    from evenmoe.simulation.studies.study import run_cells

    journal = Journal(_partial(out, "cells"), config.without_grid() | {"versions": dict(known)})
    if steady is not None:
        settings = config.without_grid() | {"steady": steady.as_dict(), "versions": dict(known)}
        steady_journal = Journal(_partial(out, "steady"), settings)
    with progress_bar() as progress:
        try:
            task = progress.add_task("runs of the study", total=None)
            rows = run_cells(
                config.cells(),
                RunPaperCells(config=config, requests=config.requests),
                journal=journal,
                jobs=jobs,
                announce=lambda done, total: progress.update(task, completed=done, total=total),
            )
            if steady is None:
                return rows, None
            task = progress.add_task("runs of the steady state", total=None)
            return rows, run_steady(
                config,
                steady,
                journal=steady_journal,
                jobs=jobs,
                announce=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Finished runs are kept; the same command goes on from there.")
            raise typer.Exit(130) from None


def _report(body: Mapping[str, Any], out: Path) -> None:
    """Print the tables; write them with every run to evaluation.log; draw the figures."""
    from rich.console import Console

    from evenmoe.reporting.simulation_plots import write_figures
    from evenmoe.reporting.simulation_tables import all_tables, cell_lines
    from evenmoe.simulation.studies.journal import write_whole

    log = Console(file=io.StringIO(), width=LOG_COLUMNS, no_color=True, force_terminal=False)
    log.print(f"CAPS's study, {body['config']['generated']}", highlight=False)
    log.print("\n".join(cell_lines(body)), highlight=False, soft_wrap=True)
    for table in all_tables(body, stdout.width):
        stdout.print(table)
    for table in all_tables(body, LOG_COLUMNS):
        log.print(table)
    assert isinstance(log.file, io.StringIO)
    write_whole(out / "evaluation.log", log.file.getvalue())
    figures = ", ".join(path.name for path in write_figures(body, out) if path.suffix == ".png")
    stdout.print(f"Figures: {figures}   Data: {out / 'results.json'}", soft_wrap=True, highlight=False)
