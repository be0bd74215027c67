"""`evenmoe top`: a running server's load, live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenmoe.cli.console import stdout, write_json
from evenmoe.cli.options import JsonOption

if TYPE_CHECKING:
    from evenmoe.serving.monitor.watch import View, Watch


def top(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    json: JsonOption = None,
) -> None:
    """Show how even a running server's experts are: a heat map of layers and devices, what is dropped, the queue.

    Needs a server with evenmoe: `evenmoe serve`, or vLLM with the plug-in. Ctrl-C ends it; with --json the last view is
    written then. Where the output is no terminal there is a line for each look.

    Example: evenmoe top http://127.0.0.1:8000
    """
    from evenmoe.serving.monitor.frame import frame
    from evenmoe.serving.monitor.watch import Watch

    watch = Watch(url)
    view = watch.look()
    if once:
        stdout.print(frame(view, width=stdout.width))
    else:
        view = _live(watch, view, interval) if stdout.is_terminal else _lines(watch, view, interval)
    if json is not None:
        _write(json, view)


def _live(watch: Watch, view: View, interval_s: float) -> View:
    """Redraw until Ctrl-C; return the last view."""
    import time

    from rich.live import Live

    from evenmoe.serving.monitor.frame import frame

    def drawn() -> object:
        return frame(view, width=stdout.width, height=stdout.height - 1)

    with Live(get_renderable=drawn, console=stdout, auto_refresh=False) as live:  # type: ignore[arg-type]
        try:
            while True:
                live.refresh()
                time.sleep(interval_s)
                view = watch.look()
        except KeyboardInterrupt:
            return view


def _lines(watch: Watch, view: View, interval_s: float) -> View:
    """Print a line for each look until Ctrl-C; return the last view."""
    import time

    from evenmoe.serving.monitor.frame import one_line

    try:
        while True:
            typer.echo(f"{time.strftime('%H:%M:%S')} {one_line(view)}")
            time.sleep(interval_s)
            view = watch.look()
    except KeyboardInterrupt:
        return view


def _write(path: Path, view: View) -> None:
    write_json(path, view.as_dict())
