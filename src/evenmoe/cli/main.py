"""The `evenmoe` command: its sub-commands, and one place where errors become messages."""

from __future__ import annotations

import logging
import os
import sys

import typer
from rich.logging import RichHandler
from rich.markup import escape

from evenmoe.cli import (
    bench,
    break_even,
    calibrate,
    calibrate_modality,
    demo,
    doctor,
    eval,
    load,
    models,
    place,
    profile,
    report,
    serve,
    simulate,
    sweep,
    top,
)
from evenmoe.cli.console import stderr
from evenmoe.errors import EvenMoEError
from evenmoe.serving.launch.traps import lead_around_traps
from evenmoe.version import __version__

app = typer.Typer(
    name="evenmoe",
    help="Make Mixture-of-Experts inference even: measure the straggler effect on a model, and remove it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("profile")(profile.profile)
app.command("place")(place.place)
app.command("sweep")(sweep.sweep)
app.add_typer(eval.app, name="eval")
app.command("report")(report.report)
app.command("models")(models.models)
app.add_typer(bench.app, name="bench")
app.add_typer(simulate.app, name="simulate")
app.command("calibrate")(calibrate.calibrate)
app.command("calibrate-modality")(calibrate_modality.calibrate_modality)
app.command("break-even")(break_even.break_even)
app.command("serve")(serve.serve)
app.add_typer(load.app, name="load")
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evenmoe {__version__}")
        raise typer.Exit


NOT_LED = ("serve", "doctor")
"""Commands that load no model here: one leads the processes that it starts, the other tells of the traps."""


@app.callback()
def common(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Log what happens; show where an error came from."
    ),
) -> None:
    """Set up logging, and a way around what may be wrong with the installation, before any sub-command."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=stderr, show_path=False, show_time=False)],
    )
    if verbose:
        os.environ["EVENMOE_TRACEBACK"] = "1"
    if context.invoked_subcommand not in NOT_LED:
        lead_around_traps()


def run() -> None:
    """Entry point. Exit status: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted."""
    try:
        app()
    except (EvenMoEError, OSError) as error:
        if os.environ.get("EVENMOE_TRACEBACK"):
            raise
        stderr.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
