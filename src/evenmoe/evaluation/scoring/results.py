"""The result of one evaluation as data: scores by task, and what the policy did to the loads meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from evenmoe.errors import FileFormatError
from evenmoe.loads import ExpertLoads

FILE_NAME = "eval.json"


class TaskScore(BaseModel):
    """One task's main metric over its items; scores and shares are between 0 and 1 where the metric is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    metric: str
    """As the harness names it, e.g. "acc_norm" or "exact_match,strict-match"."""
    num_fewshot: int
    num_items: int
    score: float
    stderr: float | None
    """Standard error over items; None for a single item, and where the metric is no mean over items."""
    items_file: str
    """Scores of the single items, relative to the result's folder."""


class LoadFigures(BaseModel):
    """How even the run was, over all its forwards; metrics as in docs/metrics.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop_rate: float
    relative_work: float
    straggler_factor: float
    peak_to_mean_before: float
    peak_to_mean_after: float
    gate_mass_kept: float
    tokens_without_expert: float

    @classmethod
    def of(cls, loads: ExpertLoads) -> LoadFigures:
        """The figures of what was counted."""
        return cls(**{name: getattr(loads, name) for name in cls.model_fields})


class EvalResult(BaseModel):
    """One model under one policy on some tasks, with all that the scores depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["evenmoe.eval"] = "evenmoe.eval"
    version: Literal[1] = 1
    harness: Literal["lm-eval", "evenmoe", "lmms-eval", "vlmevalkit"]
    config: dict[str, Any]
    """The resolved EvalConfig, whole."""
    label: str
    """The policy's name for people."""
    batches: dict[str, Any]
    """How batches were formed: size, order, number, and a fingerprint of the order."""
    versions: dict[str, str]
    tasks: tuple[TaskScore, ...]
    mean: float | None
    """Unweighted mean of the tasks' scores; None where they are on different scales, so that a mean says nothing."""
    loads: LoadFigures | None
    loads_file: str | None
    seconds: float
    """Time of the whole run; resumed parts count what they took when they ran. Not part of `fingerprint_bytes`."""

    def fingerprint_bytes(self) -> bytes:
        """The result without what differs between two runs of the same thing: times."""
        return json.dumps(self.model_dump(mode="json", exclude={"seconds"}), indent=1).encode()

    def write(self, folder: Path) -> Path:
        """Write `eval.json` into the folder in one step; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path, partial = folder / FILE_NAME, folder / f"{FILE_NAME}.partial"
        partial.write_text(json.dumps(self.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path


def read_eval_result(path: Path) -> EvalResult:
    """Read an `eval.json`, given by its path or its folder's. Raises FileNotFoundError, FileFormatError."""
    path = path / FILE_NAME if path.is_dir() else path
    try:
        return EvalResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not the result of an evaluation: {error}") from error
