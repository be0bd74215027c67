"""ExpertModality: what each expert of a model is for, image tokens, text tokens or both, and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evenmoe.errors import ConfigError, EvenMoEError, FileFormatError, ShapeError

FORMAT: Final = "evenmoe.expert_modality"
VERSION: Final = 1
LABELS: Final[dict[str, int]] = {"visual": 1, "text": -1, "shared": 0}
"""m_j of each label (MACS)."""

_KEYS = ("format", "version", "method", "layers", "modality_of_expert")


@dataclass(frozen=True, kw_only=True)
class ExpertModality:
    """A label, "visual", "text" or "shared", for every expert of every MoE layer.

    layers: the names of the model's MoE layers, in order. rows: for each layer, a label for each expert.
    method: how the labels were found, for people.
    Raises ShapeError unless there is a row for each layer, ConfigError for an unknown label or a layer without experts.
    """

    layers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    method: str = ""

    def __post_init__(self) -> None:
        if not self.rows or len(self.layers) != len(self.rows):
            raise ShapeError(f"there are {len(self.rows)} rows of labels for {len(self.layers)} layers")
        for name, row in zip(self.layers, self.rows, strict=True):
            if not row:
                raise ConfigError("modality_of_expert", f"no label for {name}", "a label for each expert")
            for label in row:
                if label not in LABELS:
                    raise ConfigError("modality_of_expert", label, "one of " + ", ".join(LABELS))

    @staticmethod
    def of(layers: Iterable[str], rows: Iterable[Iterable[str]], method: str = "") -> ExpertModality:
        """Make labels from any lists of names."""
        return ExpertModality(layers=tuple(layers), rows=tuple(tuple(row) for row in rows), method=method)

    def signs(self, layer: int) -> list[int]:
        """Return [E]: 1 for each visual, -1 for each text and 0 for each shared expert of a layer."""
        return [LABELS[label] for label in self.rows[layer]]

    def counts(self, layer: int) -> dict[str, int]:
        """Return how many experts of a layer have each label."""
        return {label: self.rows[layer].count(label) for label in LABELS}

    def check_fits(self, layers: Sequence[str], num_experts_L: Sequence[int]) -> None:
        """Raise ShapeError unless the labels are for MoE layers of these names and numbers of experts."""
        if tuple(layers) != self.layers:
            raise ShapeError(
                f"the expert labels are for the MoE layers {_listed(self.layers)}; the model has {_listed(layers)}"
            )
        for name, row, num_experts in zip(self.layers, self.rows, num_experts_L, strict=True):
            if len(row) != num_experts:
                raise ShapeError(f"{name} has {num_experts} experts, but labels for {len(row)}")

    def describe(self) -> dict[str, Any]:
        """Return the labels as data, as in their file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "layers": list(self.layers),
            "modality_of_expert": [list(row) for row in self.rows],
        }

    @staticmethod
    def from_data(body: Any) -> ExpertModality:
        """Return the labels that `describe` gave. Raises FileFormatError, ConfigError and ShapeError."""
        if not isinstance(body, Mapping):
            raise FileFormatError(f"it holds a {type(body).__name__}, not an object")
        if body.get("format") != FORMAT or body.get("version") != VERSION:
            raise FileFormatError(
                f"format {body.get('format')!r} version {body.get('version')!r}; "
                f"this reads {FORMAT!r} version {VERSION}"
            )
        missing, unknown = [key for key in _KEYS if key not in body], sorted(set(body) - set(_KEYS))
        if missing or unknown:
            raise FileFormatError(
                f"it lacks {missing}" if missing else f"it has keys unknown to this version: {unknown}"
            )
        if not isinstance(body["method"], str):
            raise FileFormatError(f"method is {body['method']!r}, not a text")
        rows = body["modality_of_expert"]
        if not isinstance(rows, list) or not all(_is_names(row) for row in [body["layers"], *rows]):
            raise FileFormatError("layers must be a list of names, modality_of_expert a list of such lists")
        return ExpertModality.of(body["layers"], rows, body["method"])


def write_expert_modality(modality: ExpertModality, path: str | Path) -> Path:
    """Write the labels as JSON to `path`, one line per layer, replacing the file in one step. Returns the path."""
    path = Path(path)
    *head, (last, rows) = modality.describe().items()
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head]
    body = ",\n  ".join(map(json.dumps, rows))
    lines.append(f"{json.dumps(last)}: [\n  {body}\n ]")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("{\n " + ",\n ".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def read_expert_modality(path: str | Path) -> ExpertModality:
    """Read a file of expert labels. Raises FileNotFoundError, and FileFormatError for anything that is wrong in it."""
    path = Path(path)
    try:
        return ExpertModality.from_data(json.loads(path.read_text(encoding="utf-8")))
    except (EvenMoEError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not a file of expert labels: {error}") from error


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} ... {names[-1]} ({len(names)})"
