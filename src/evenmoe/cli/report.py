"""`evenmoe report`: draw the report of a finished sweep again, or of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenmoe.cli.console import stderr, stdout, write_json
from evenmoe.cli.options import JsonOption
from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from evenmoe.serving.monitor import ServerFigures


def report(
    folder: Annotated[
        Path | None, typer.Argument(help="The --out folder of a finished demo or sweep.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the rows as a Markdown table instead.")
    ] = False,
    live: Annotated[
        str | None,
        typer.Option("--live", help="A running server with evenmoe, such as http://127.0.0.1:8000."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="With --live: where the HTML goes.")] = Path(
        "server_report.html"
    ),
    over: Annotated[
        float | None,
        typer.Option(
            "--over",
            help="With --live: watch this many seconds. Default: all since the server's start.",
            min=0.1,
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Draw report.html and the plots again from the results.json and loads in FOLDER; with --live, a server's loads.

    Examples: evenmoe report results/    evenmoe report --live http://127.0.0.1:8000 --over 60 --out now.html
    """
    if live is not None:
        if folder is not None or markdown:
            raise ConfigError(
                "--live", live, "alone: a server's report needs no folder and has no --markdown"
            )
        _report_server(live, out, over, json)
        return
    if folder is None:
        raise ConfigError("FOLDER", None, "the --out folder of a demo or sweep, or --live URL")
    for option, value in (("--over", over), ("--json", json)):
        if value is not None:
            raise ConfigError(option, str(value), "left out without --live")
    _report_sweep(folder, markdown)


def _report_sweep(folder: Path, markdown: bool) -> None:
    from evenmoe.evaluation.results import read_results
    from evenmoe.reporting.html import sweep_report
    from evenmoe.reporting.tables import results_markdown

    if markdown:
        typer.echo(results_markdown(read_results(folder / "results.json")))
        return
    stdout.print(f"Report: {sweep_report(folder)}", soft_wrap=True, highlight=False)


def _report_server(url: str, out: Path, over_s: float | None, json: Path | None) -> None:
    from evenmoe.reporting.server_report import server_report

    figures = _watch(url, over_s)
    if json is not None:
        write_json(json, figures.as_dict())
    if figures.loads is None:
        stderr.print(
            f"No loads were told: the server tells them as sums over at least {figures.least_requests} requests.",
            highlight=False,
        )
    stdout.print(f"Report: {server_report(figures, url, out)}", soft_wrap=True, highlight=False)


def _watch(url: str, over_s: float | None) -> ServerFigures:
    """The figures of `over_s` seconds, or since the server's start."""
    import time

    from evenmoe.serving.monitor import figures_between, scrape

    before = scrape(url)
    if over_s is None:
        return figures_between(None, before)
    figures_between(None, before)  # a server without evenmoe is told before the wait
    time.sleep(over_s)
    return figures_between(before, scrape(url))
