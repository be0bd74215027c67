"""The batch scheduler's settings on the command line: of a file, of flags, or both, the flags going first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evenmoe.scheduling import SchedulerConfig

SchedulerOption = Annotated[
    Path | None,
    typer.Option(
        "--scheduler", help="A scheduler's file, .json as CAPS has it or .toml (docs/scheduling.md)."
    ),
]
MaxBatchOption = Annotated[
    int | None, typer.Option("--batch-size", help="Requests of a batch, at most. Default: 8.", min=1)
]
WindowOption = Annotated[
    int | None, typer.Option("--window", help="The oldest requests to pick from. Default: 32.", min=1)
]
TriggerOption = Annotated[
    int | None, typer.Option(help="Requests that make a batch due at once. Default: 16.", min=1)
]
IntervalOption = Annotated[
    float | None,
    typer.Option(help="Milliseconds after which the oldest request makes it due. Default: 100.", min=0),
]
PassedOverOption = Annotated[
    int | None,
    typer.Option(help="Batches that may take a younger request instead. Default: 16.", min=0),
]


def scheduler_config(
    path: Path | None,
    *,
    batch_size: int | None,
    window: int | None,
    trigger: int | None,
    interval_ms: float | None,
    max_passed_over: int | None,
) -> SchedulerConfig:
    """The settings; what is neither in the file nor given has its default. Raises ConfigError, FileFormatError."""
    from dataclasses import replace

    from evenmoe.scheduling import SchedulerConfig, read_config

    config = SchedulerConfig() if path is None else read_config(path).scheduler
    given = {
        "max_batch_size": batch_size,
        "window_size": window,
        "min_batch_trigger": trigger,
        "scheduling_interval_ms": interval_ms,
        "max_passed_over": max_passed_over,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(config, **changes)  # type: ignore[arg-type]
