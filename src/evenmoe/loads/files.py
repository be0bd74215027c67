"""Expert loads as files: `.json` to read by eye, `.npz` for size. Schema: docs/loads-file.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.loads.expert_loads import ExpertLoads, LoadCounts, StepPeaks

FORMAT = "evenmoe.loads"
VERSION = 1
SUFFIXES = (".json", ".npz")


def write_loads(loads: ExpertLoads, path: str | Path) -> Path:
    """Write `loads` to `path` (`.json` or `.npz`), replacing the file in one step. Returns the path.

    Raises ConfigError for any other suffix.
    """
    path = _checked(path)
    header, arrays = split_loads(loads)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".json":
        body = header | {"arrays": {name: array.tolist() for name, array in arrays.items()}}
        partial.write_text(json.dumps(body) + "\n", encoding="utf-8")
    else:
        partial.write_bytes(_npz(header, arrays))
    os.replace(partial, path)
    return path


def read_loads(path: str | Path) -> ExpertLoads:
    """Read loads written by `write_loads`, or a table of counts per domain (docs/loads-file.md, "imports").

    Raises FileNotFoundError, ConfigError for an unknown suffix, FileFormatError for anything else that is wrong.
    """
    path = _checked(path)
    try:
        body = _read_json(path) if path.suffix == ".json" else _read_npz(path)
        return _from_domains(body) if "domains" in body else _from_body(body)
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, BadZipFile) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(f"{path} is not a loads file: {what}") from error


def pack_loads(loads: ExpertLoads) -> bytes:
    """Return the content of a `.npz` file of `loads`: exact, and the same for the same loads."""
    return _npz(*split_loads(loads))


def unpack_loads(data: bytes) -> ExpertLoads:
    """Return the loads that `pack_loads` packed. Raises FileFormatError for anything else."""
    try:
        return _from_body(_read_npz(BytesIO(data)))
    except (KeyError, TypeError, ValueError, EOFError, BadZipFile) as error:
        raise FileFormatError(f"not packed loads: {error}") from error


def split_loads(loads: ExpertLoads) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what every format of `loads` is made of: a header of JSON values, and named arrays."""
    tags = list(loads.by_tag)
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "source": loads.source,
        "layers": list(loads.layers),
        "top_k": loads.top_k,
        "tags": tags,
        "num_devices": loads.peaks.num_devices if loads.peaks else None,
    }
    arrays: dict[str, NDArray[Any]] = {"num_experts_L": loads.num_experts_L}
    for index, (_, counts) in enumerate(loads):
        prefix = "total" if index == 0 else f"tag{index - 1}"
        arrays |= {f"{prefix}.{name}": array for name, array in counts.arrays().items()}
    if loads.peaks:
        arrays |= {f"peaks.{name}": getattr(loads.peaks, name) for name in _peak_names()}
    return header, arrays


def join_loads(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ExpertLoads:
    """Return the loads that `split_loads` split. Raises FileFormatError for anything else."""
    try:
        return _from_body({**header, "arrays": arrays})
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"not the parts of loads: {error}") from error


def _npz(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    packed = BytesIO()
    np.savez_compressed(packed, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    return packed.getvalue()


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ConfigError("loads file", str(path), "a name that ends in " + " or ".join(SUFFIXES))
    return path


def _peak_names() -> list[str]:
    return [f.name for f in fields(StepPeaks) if f.name != "num_devices"]


def _read_json(path: Path) -> dict[str, Any]:
    body = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise FileFormatError(f"it holds a {type(body).__name__}, not an object")
    return body


def _read_npz(file: Path | BytesIO) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header: dict[str, Any] = json.loads(str(arrays.pop("header")))
    return header | {"arrays": arrays}


def _from_body(body: Mapping[str, Any]) -> ExpertLoads:
    if body.get("format") != FORMAT or body.get("version") != VERSION:
        raise FileFormatError(
            f"format {body.get('format')!r} version {body.get('version')!r}; this reads {FORMAT!r} version {VERSION}"
        )
    arrays: Mapping[str, Any] = body["arrays"]
    peaks = None
    if body["num_devices"] is not None:
        peaks = StepPeaks(
            num_devices=int(body["num_devices"]),
            **{name: _array(arrays[f"peaks.{name}"], name, 1) for name in _peak_names()},
        )
    return ExpertLoads(
        layers=tuple(body["layers"]),
        num_experts_L=_array(arrays["num_experts_L"], "num_experts_L", 1),
        top_k=int(body["top_k"]),
        total=_counts(arrays, "total"),
        by_tag={tag: _counts(arrays, f"tag{index}") for index, tag in enumerate(body["tags"])},
        peaks=peaks,
        source=str(body["source"]),
    )


def _counts(arrays: Mapping[str, Any], prefix: str) -> LoadCounts:
    return LoadCounts(
        **{
            f.name: _array(arrays[f"{prefix}.{f.name}"], f.name, 1 + f.name.endswith("_LE"))
            for f in fields(LoadCounts)
        }
    )


def _array(values: Any, name: str, num_axes: int) -> NDArray[Any]:
    """An array of the field's own type; wrong axes, negative or non-finite entries are refused."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != num_axes:
        raise FileFormatError(f"{name} has {array.ndim} axes, not {num_axes}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise FileFormatError(f"{name} has negative or non-finite entries")
    is_measure = name.startswith(("gate_mass", "expert_", "device_"))
    return array if is_measure else np.asarray(values).astype(np.int64)


def _from_domains(body: Mapping[str, Any]) -> ExpertLoads:
    """A table {"layers": [...], "num_experts": E, "top_k": K, "domains": {name: counts [L][E]}}."""
    top_k = int(body["top_k"])
    layers = tuple(str(layer) for layer in body["layers"])
    by_tag = {
        str(name): LoadCounts.undropped(_array(counts, f"domain {name!r}", 2), top_k)
        for name, counts in body["domains"].items()
    }
    if not by_tag:
        raise FileFormatError("it has no domain")
    total_LE = np.sum([counts.before_LE for counts in by_tag.values()], axis=0)
    return ExpertLoads(
        layers=layers,
        num_experts_L=np.full(len(layers), int(body["num_experts"]), dtype=np.int64),
        top_k=top_k,
        total=LoadCounts.undropped(total_LE, top_k),
        by_tag=by_tag,
        source=str(body.get("model", "")),
    )
