"""`evenmoe load compare`: saved runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.console import stdout, write_json
from evenmoe.cli.options import JsonOption


def compare(
    files: Annotated[
        list[Path], typer.Argument(help="Files that evenmoe load --json wrote; the first label is the base.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table instead.")] = False,
    json: JsonOption = None,
) -> None:
    """Compare runs: those of one --label are a group, each group is set against the first, paired by seed.

    Example: evenmoe load compare fcfs-0.json fcfs-1.json auto-0.json auto-1.json
    """
    import dataclasses

    from evenmoe.cli.load_tables import comparison_markdown, print_comparison
    from evenmoe.serving.load.comparison import compare_runs, read_run

    comparison = compare_runs([read_run(path) for path in files])
    if markdown:
        typer.echo(comparison_markdown(comparison))
    else:
        print_comparison(comparison)
    for name, values in comparison.differing.items():
        found = ", ".join(dict.fromkeys(map(str, values)))
        stdout.print(f"Not the same in all runs: {name} ({found}).", highlight=False, markup=False)
    if json is not None:
        write_json(json, dataclasses.asdict(comparison))
