"""Finished evaluations on disk: a result together with the scores of its items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.scoring.items import ItemScore, read_items
from evenmoe.evaluation.scoring.results import FILE_NAME, EvalResult, read_eval_result


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A result with the scores of its items, by task."""

    folder: Path
    result: EvalResult
    items: Mapping[str, Sequence[ItemScore]]

    @property
    def policy(self) -> str:
        """The policy's registered name. Raises FileFormatError for a result that has none."""
        try:
            return str(self.result.config["policy"]["name"])
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{self.folder} does not say under which policy it was measured") from error

    @property
    def gamma(self) -> float | None:
        """The capacity factor, None where there is none."""
        gamma = self.result.config.get("gamma")
        return None if gamma is None else float(gamma)

    def scores(self, task: str) -> list[float]:
        """The score of each item of a task."""
        return [item.score for item in self.items[task]]


def find_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """Every evaluation in or below the folders, each once, in the order of their paths.

    Raises ConfigError for a folder that is not there or holds none, FileFormatError for a damaged one.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            raise ConfigError("folder", str(folder), "one that exists")
        files = [folder] if folder.is_file() else sorted(folder.rglob(FILE_NAME))
        if not files:
            raise ConfigError(
                "folder", str(folder), f"one with the {FILE_NAME} of a finished evaluation below it"
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return [read_evaluation(file.parent) for file in found.values()]


def read_evaluation(folder: Path) -> Evaluation:
    """Read the result in `folder` and its items. Raises FileFormatError where the two do not fit together."""
    result = read_eval_result(folder)
    items = {}
    for task in result.tasks:
        path = folder / task.items_file
        if not path.is_file():
            raise FileFormatError(f"{folder / FILE_NAME} names {task.items_file}, which is not there")
        items[task.task] = read_items(path)
        if len(items[task.task]) != task.num_items:
            raise FileFormatError(
                f"{path} has {len(items[task.task])} items, {folder / FILE_NAME} says {task.num_items}"
            )
    return Evaluation(folder=folder, result=result, items=items)
