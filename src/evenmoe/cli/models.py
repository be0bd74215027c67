"""`evenmoe models`: which architectures are supported, and a check of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from evenmoe.cli.console import progress_bar, stdout
from evenmoe.cli.options import JsonOption

if TYPE_CHECKING:
    from evenmoe.models.check import CheckResult

RENORMALISES = {
    "always": "yes",
    "never": "no",
    "flag": "if norm_topk_prob",
    "joint": "with shared experts",
}
STATUS = {"passed": "[green]passed[/]", "failed": "[bold red]failed[/]", "absent": "[dim]absent[/]"}


def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Model types, as in config.json. Default: all.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build a tiny random model of each and verify it.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """List the supported architectures; with --check, verify each on a tiny random model (some minutes).

    Exit status 1 if a check failed.
    """
    if check:
        results = _check(names)
        _write(json, [dataclasses.asdict(result) for result in results])
        if any(result.status == "failed" for result in results):
            raise typer.Exit(1)
    else:
        _list(names, json)


def _list(names: list[str] | None, json: Path | None) -> None:
    from evenmoe.models.catalog import CATALOG, UNSUPPORTED, catalog_entry

    entries = [catalog_entry(name) for name in names] if names else list(CATALOG.values())
    table = Table(title=f"{len(entries)} architectures", title_justify="left")
    for column in ("model_type", "input", "scores", "renormalises", "notes", "checkpoints"):
        table.add_column(column, overflow="fold", no_wrap=column == "model_type")
    for entry in entries:
        checkpoints = "\n".join(entry.checkpoints)
        scores = entry.architecture.score or "not known: no Expanded Drop, no Fill"
        renormalises = RENORMALISES[entry.architecture.renormalise]
        table.add_row(entry.model_type, entry.modality, scores, renormalises, entry.note, checkpoints)
    stdout.print(table)
    if not names:
        for name, reason in UNSUPPORTED.items():
            stdout.print(f"not supported: {name}: {reason}", soft_wrap=True)
    _write(json, [dataclasses.asdict(entry) | dataclasses.asdict(entry.architecture) for entry in entries])


def _check(names: list[str] | None) -> list[CheckResult]:
    from evenmoe.models.catalog import CATALOG
    from evenmoe.models.check import check_all

    with progress_bar() as progress:
        task = progress.add_task("building", total=len(names or CATALOG))

        def announce(result: CheckResult) -> None:
            progress.update(task, advance=1, description=f"{result.model_type}: {result.status}")

        results = check_all(names, progress=announce)
    table = Table(title="A tiny random model of each, verified", title_justify="left")
    for column in ("model_type", "result", "max |Δ|", "seconds", "message"):
        table.add_column(column, overflow="fold")
    for result in results:
        difference = "" if result.max_abs_diff is None else f"{result.max_abs_diff:.1e}"
        table.add_row(
            result.model_type, STATUS[result.status], difference, f"{result.seconds:.1f}", result.message
        )
    stdout.print(table)
    counts = {status: sum(result.status == status for result in results) for status in STATUS}
    stdout.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return results


def _write(path: Path | None, rows: list[dict[str, object]]) -> None:
    if path:
        import json

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
