"""The two consoles: results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

stdout = Console()
stderr = Console(stderr=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error, gone when done; without a terminal it stays silent."""
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        yield progress


def hide_loading_bars() -> None:
    """Keep transformers from drawing a bar per checkpoint over our own progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def write_json(path: Path, body: object) -> None:
    """Write a result as data, in a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
