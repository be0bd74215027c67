"""`evenmoe report`: draw the report of a finished sweep again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.console import stdout


def report(
    folder: Annotated[Path, typer.Argument(help="The --out folder of a finished demo or sweep.")],
) -> None:
    """Draw report.html and the plots again from the results.json and loads in FOLDER."""
    from evenmoe.reporting.html import sweep_report

    stdout.print(f"Report: {sweep_report(folder)}", soft_wrap=True, highlight=False)
