"""VLMEvalKit's benchmarks by name, and ours among them; what cannot be had is said in one line."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from vlmeval.dataset import CustomMCQDataset, build_dataset
from vlmeval.smp import LMUDataRoot

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scenes import Item
from evenmoe.evaluation.vision.sources import MissingDatasetError
from evenmoe.evaluation.vision.vlmevalkit.harness import variable_set
from evenmoe.evaluation.vision.vlmevalkit.tsv import COLUMNS, row_of

ROOT_VARIABLE = "LMUData"
SCORED_WITHOUT_JUDGE = ("MCQ", "Y/N")
"""Kinds of benchmark whose answers VLMEvalKit matches by rules; for others it asks a judge model."""


class Scenes(CustomMCQDataset):  # type: ignore[misc]  # VLMEvalKit has no types
    """The bundled scenes, or some of them, as a benchmark that needs no file."""

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        self._items = items
        super().__init__(dataset=name)

    def load_data(self, dataset: str) -> pd.DataFrame:
        """Return what VLMEvalKit would read from the file of `write_tsv`."""
        return pd.DataFrame([row_of(item) for item in self._items], columns=list(COLUMNS)).replace("", np.nan)


@contextmanager
def open_scenes(name: str, items: Sequence[Item]) -> Iterator[Scenes]:
    """Give the bundled scenes as a benchmark, its images in a folder that is gone afterwards.

    VLMEvalKit keeps images by the names of benchmark and item, and takes up those that it finds: in a folder of its own
    a set meets none of another version.
    """
    with tempfile.TemporaryDirectory(prefix="evenmoe-") as folder, variable_set(ROOT_VARIABLE, folder):
        yield Scenes(name, items)


def open_benchmark(name: str, limit: int | None) -> Any:
    """Return a benchmark of VLMEvalKit, its file fetched to `$LMUData` unless it is there, or its first `limit` rows.

    Raises ConfigError for a name that is not known and for a kind of benchmark that needs a judge model,
    MissingDatasetError for one whose file cannot be had.
    """
    file = Path(LMUDataRoot()) / f"{name}.tsv"
    present = file.exists()
    if not present and _is_offline():
        raise MissingDatasetError(
            f"{name}: {file} does not exist, and HF_HUB_OFFLINE forbids to fetch it. {_ADVICE}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            benchmark = build_dataset(name)
    except Exception as error:
        if not present:
            file.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingDatasetError(f"{name}: {file} cannot be had ({reason}). {_ADVICE}") from error
    if benchmark is None:
        raise ConfigError("tasks", name, f"a benchmark of VLMEvalKit, or a table of your own at {file}")
    if benchmark.MODALITY != "IMAGE" or benchmark.TYPE not in SCORED_WITHOUT_JUDGE:
        kind = f"{benchmark.MODALITY.lower()}, {benchmark.TYPE}"
        raise ConfigError(
            "tasks", name, f"multiple choice or yes and no about images, matched by rules; it is {kind}"
        )
    if limit is not None:
        benchmark.data = benchmark.data.iloc[:limit]
    return benchmark


_ADVICE = (
    f"Fetch it where the network is reachable, or copy the file there; ${ROOT_VARIABLE} names the folder"
)


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
