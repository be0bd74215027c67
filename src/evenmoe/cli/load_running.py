"""One run of `evenmoe load`: the server's counters before and after, progress, and what is kept when interrupted."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from evenmoe.cli.console import progress_bar, stderr
from evenmoe.serving.load import ClientOptions, LoadResult, Planned, Record, run_load, summarise
from evenmoe.serving.monitor import Scrape, ScrapeError, ServerFigures, figures_between, scrape

SPARE_FILES = 64
"""Files that the client has open besides a connection per request."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run; `server` is None where the server has no metrics."""

    result: LoadResult
    server: ServerFigures | None
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        server = None if self.server is None else self.server.as_dict()
        return {"interrupted": self.interrupted, "result": self.result.as_dict(), "server": server}


def measure(
    first: Sequence[Planned], plan: Sequence[Planned], options: ClientOptions, path: Path | None
) -> Measured:
    """Send `first` and wait, then `plan`, one line per request to `path`; Ctrl-C keeps what was known by then."""
    _allow_files(len(plan))
    if first:
        with stderr.status(f"Warming up with {len(first)} requests ..."):
            asyncio.run(run_load(first, options))
    before = _scraped(options.url)
    records, seconds, interrupted = _run(plan, options, path)
    after = _scraped(options.url)
    server = None if before is None or after is None else figures_between(before, after)
    return Measured(result=summarise(records, seconds), server=server, interrupted=interrupted)


def _scraped(url: str) -> Scrape | None:
    try:
        found = scrape(url)
    except ScrapeError:
        return None
    return found if found.is_of_evenmoe else None


def _run(
    plan: Sequence[Planned], options: ClientOptions, path: Path | None
) -> tuple[list[Record], float, bool]:
    told: list[Record] = []
    start = time.perf_counter()
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("sending", total=len(plan))
        lines = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = stack.enter_context(path.open("w", encoding="utf-8", buffering=1))

        def tell(record: Record) -> None:
            told.append(record)
            if lines is not None:
                lines.write(json.dumps(record.as_dict()) + "\n")
            progress.advance(task)
            if record.outcome != "finished":
                progress.update(task, description=f"last: {record.outcome}, {record.error[:60]}")

        try:
            records, seconds = asyncio.run(run_load(plan, options, tell))
        except KeyboardInterrupt:
            progress.stop()
            if not told:
                raise typer.Exit(130) from None
            stderr.print(f"Interrupted: the figures are of the {len(told)} requests that had been sent.")
            return sorted(told, key=lambda record: record.index), time.perf_counter() - start, True
    return records, seconds, False


def _allow_files(connections: int) -> None:
    """Raise this process's limit of open files, as far as it may: an open loop may have every request open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
