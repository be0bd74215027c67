"""`evenmoe load`: traffic against an OpenAI-compatible server, and saved runs side by side."""

from __future__ import annotations

import typer

from evenmoe.cli import load_compare, load_run
from evenmoe.cli.default_command import RunByDefault

app = typer.Typer(
    cls=RunByDefault,
    help="Traffic against a server, and what its users see. `evenmoe load URL ...` is `evenmoe load run URL ...`.",
    no_args_is_help=True,
)
app.command("run")(load_run.run)
app.command("compare")(load_compare.compare)
