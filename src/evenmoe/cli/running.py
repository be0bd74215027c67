"""What `demo` and `sweep` share: load, measure with progress, draw, print."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from pydantic import ValidationError

from evenmoe.cli.console import hide_loading_bars, progress_bar, stderr, stdout
from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from evenmoe.evaluation.config import SweepConfig
    from evenmoe.evaluation.results import Results
    from evenmoe.placement import Placement

BUNDLED_PREFIX = "bundled:"
DEFAULT_DEVICES = 8


def make_config(**settings: Any) -> SweepConfig:
    """A checked configuration. Raises ConfigError for the first setting that is not allowed."""
    from evenmoe.evaluation.config import SweepConfig

    try:
        return SweepConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(field, first["input"], first["msg"].removeprefix("Value error, ")) from error


def path_of(name: str) -> str:
    """A folder or Hub name as `load` takes it; "bundled:text" is the folder that ships."""
    if not name.startswith(BUNDLED_PREFIX):
        return name
    from evenmoe.models.bundled import bundled_path

    return str(bundled_path(name.removeprefix(BUNDLED_PREFIX)))


def load_model_and_tokenizer(name: str, dtype: str, quantization: str | None) -> tuple[Any, Any]:
    """The model and tokenizer of a folder, a Hub name or "bundled:text"."""
    from evenmoe.models.loading import load, load_tokenizer

    hide_loading_bars()
    path = path_of(name)
    with stderr.status(f"Loading {name} ..."):
        # `load` checks both names itself.
        return load(path, dtype=dtype, quantization=cast(Any, quantization)), load_tokenizer(path)


def devices_and_placement(devices: int | None, path: Path | None) -> tuple[int, Placement | None]:
    """The number of devices, and which experts they hold if a file says so. ConfigError where the two disagree."""
    if path is None:
        return devices or DEFAULT_DEVICES, None
    from evenmoe.placement import read_placement

    placement = read_placement(path)
    if devices not in (None, placement.num_devices):
        raise ConfigError("devices", devices, f"the {placement.num_devices} of {path}, or left out")
    return placement.num_devices, placement


def texts_for(paths: list[Path] | None) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Texts by domain, and their names for the configuration: the user's files or the held-out text that ships."""
    from evenmoe.evaluation.texts import heldout_texts, read_texts

    if paths:
        return read_texts(paths), tuple(str(path) for path in paths)
    texts = heldout_texts()
    return texts, tuple(f"bundled:{domain}" for domain in texts)


def run_and_report(
    config: SweepConfig, texts: Mapping[str, str], out: Path, json_path: Path | None, title: str
) -> Results:
    """Run the sweep with a progress bar, draw the report, print the table and where everything is."""
    from evenmoe.evaluation.sweep import Point, points, run_sweep
    from evenmoe.loads import read_loads
    from evenmoe.reporting.html import sweep_report
    from evenmoe.reporting.summary import sentence
    from evenmoe.reporting.tables import loads_table, results_table

    points(config)
    model, tokenizer = load_model_and_tokenizer(config.model, config.dtype, config.quantization)
    with progress_bar() as progress:
        task = progress.add_task("starting", total=None)

        def announce(point: Point, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=point.label)

        try:
            results = run_sweep(config, model, tokenizer, texts, out, announce)
        except KeyboardInterrupt:
            progress.stop()
            stderr.print("Interrupted. Finished rows are kept; the same command goes on from there.")
            raise typer.Exit(130) from None
    loads = read_loads(out / results.rows[0].loads_file)
    stdout.print(
        loads_table(loads, stdout.width, "Busiest expert over the mean, by layer and domain, without a limit")
    )
    stdout.print(results_table(results, stdout.width, title))
    stdout.print(sentence(results), highlight=False)
    report = sweep_report(out)
    stdout.print(f"Report: {report}   Data: {out / 'results.json'}", soft_wrap=True, highlight=False)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "results.json", json_path)
    return results
