"""`evenmoe eval compare`: policies side by side, with paired differences to no limit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evenmoe.cli.console import stdout, write_json
from evenmoe.cli.options import JsonOption


def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of finished evaluations; all below them count too.")
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print one Markdown table instead.")] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Also write one line per policy and task to this file.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A setting that may differ beside the policy, e.g. versions.torch (repeatable)."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare evaluations of one model: scores, paired differences to no limit, and how even each policy ran.

    Evaluations that differ in more than the policy (tasks, items, shots, batches, versions) are refused.

    Example: evenmoe eval compare out/eval --csv out/eval.csv
    """
    from evenmoe.evaluation.scoring.compare import compare_evaluations
    from evenmoe.evaluation.scoring.evaluations import find_evaluations
    from evenmoe.reporting.quality_tables import comparison_csv, comparison_markdown, comparison_tables

    comparison = compare_evaluations(find_evaluations(folders), allow=tuple(allow or ()))
    if markdown:
        typer.echo(comparison_markdown(comparison))
    else:
        for table in comparison_tables(comparison, stdout.width):
            stdout.print(table)
        if comparison.allowed:
            stdout.print(f"These also differ: {', '.join(comparison.allowed)}.", highlight=False)
    if csv:
        csv.parent.mkdir(parents=True, exist_ok=True)
        csv.write_text(comparison_csv(comparison), encoding="utf-8")
    if json:
        write_json(json, comparison.model_dump(mode="json"))
