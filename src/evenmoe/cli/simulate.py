"""`evenmoe simulate`: schedulers on simulated machines, with synthetic and with real traffic."""

from __future__ import annotations

import typer

from evenmoe.cli import simulate_live, simulate_paper, simulate_trace
from evenmoe.cli.simulate_options import ManyValues

app = typer.Typer(
    help="Simulate batch scheduling: the published study again, and real traffic.", no_args_is_help=True
)
app.command("paper", cls=ManyValues)(simulate_paper.paper)
app.command("trace", cls=ManyValues)(simulate_trace.trace)
app.command("live")(simulate_live.live)


@app.callback()
def simulate() -> None:
    """Keep `paper` a sub-command of its own, whatever else there is."""
