"""The result of a measurement as data: what tables, plots and the report are drawn from."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from evenmoe.errors import FileFormatError
from evenmoe.version import __version__


class Row(BaseModel):
    """One policy at one gamma. Metrics as in docs/metrics.md; shares are between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    label: str
    """Family and setting together, for people."""
    family: str
    setting: str
    policy: str
    gamma: float | None
    """None where the policy has no capacity."""
    scope: str | None
    level: str | None
    settings: dict[str, Any]
    next_token_accuracy: float
    accuracy_change: float
    """Against the baseline, on the same windows."""
    accuracy_change_stderr: float | None
    """Standard error of that change over paired windows; None for a single window."""
    bits_per_byte: float
    drop_rate: float
    relative_work: float
    peak_to_mean_before: float
    peak_to_mean_after: float
    straggler_factor: float
    gate_mass_kept: float
    tokens_without_expert: float
    """Share of (token, layer) pairs left with no routed expert."""
    seconds: float
    """Time of the forward passes, virtual devices in one process: no measure of a parallel run."""
    accuracy_by_domain: dict[str, float]
    loads_file: str


class Results(BaseModel):
    """A whole measurement with what it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["evenmoe.results"] = "evenmoe.results"
    version: Literal[1] = 1
    kind: str
    config: dict[str, Any]
    """The resolved configuration, whole."""
    seed: int
    versions: dict[str, str]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> Path:
        """Write as JSON, replacing the file in one step; the same results give the same bytes."""
        body = self.model_dump(mode="json")
        partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path


def read_results(path: Path) -> Results:
    """Read a `results.json`. Raises FileNotFoundError, FileFormatError."""
    try:
        return Results.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not a results file: {error}") from error


def versions() -> dict[str, str]:
    """The versions that the numbers may depend on."""
    found = {"evenmoe": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "tokenizers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
