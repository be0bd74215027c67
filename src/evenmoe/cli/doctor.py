"""`evenmoe doctor`: what works here, what is missing, and how to get it."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from evenmoe.cli.console import hide_loading_bars, stderr, stdout
from evenmoe.cli.options import JsonOption

MARKS = {"ok": "[green]ok[/]", "optional": "[yellow]missing[/]", "broken": "[bold red]broken[/]"}


def doctor(json: JsonOption = None) -> None:
    """Check versions, the bundled model and optional parts. Exit status 1 if something needed is broken."""
    import json as json_module

    import typer

    from evenmoe.doctor import diagnose

    hide_loading_bars()
    with stderr.status("Looking ..."):
        findings = diagnose()
    table = Table(title="evenmoe doctor", title_justify="left")
    for name in ("what", "state", "found", "what to do"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        name, found, remedy = map(escape, (finding.name, finding.found, finding.remedy))
        table.add_row(name, MARKS[finding.state], found, remedy)
    stdout.print(table)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        body = {"findings": [finding.as_dict() for finding in findings]}
        json.write_text(json_module.dumps(body, indent=1) + "\n", encoding="utf-8")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)
