"""`evenmoe report`: draw the report of a finished sweep again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.console import stdout


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a finished demo or sweep.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the rows as a Markdown table instead.")
    ] = False,
) -> None:
    """Draw report.html and the plots again from the results.json and loads in FOLDER."""
    from evenmoe.evaluation.results import read_results
    from evenmoe.reporting.html import sweep_report
    from evenmoe.reporting.tables import results_markdown

    if markdown:
        typer.echo(results_markdown(read_results(folder / "results.json")))
        return
    stdout.print(f"Report: {sweep_report(folder)}", soft_wrap=True, highlight=False)
