"""Token priors as .npz files: the counts they are made of, and where those come from. Schema: docs/prediction.md."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, EvenMoEError, FileFormatError
from evenmoe.scheduling.predictors.calibration import Calibration
from evenmoe.scheduling.predictors.token_counts import TokenCounts
from evenmoe.scheduling.predictors.token_prior import TokenPrior

FORMAT = "evenmoe.token-prior"
VERSION = 1
SUFFIX = ".npz"
_SIZES = ("num_layers", "num_experts", "top_k")
_ARRAYS = ("ids_R", "seen_R", "cell_N", "count_N")
_HEADER = ("format", "version", *_SIZES, "num_tokens", "shrinkage", "model", "domains")


def write_token_prior(prior: TokenPrior, path: str | Path) -> Path:
    """Write `prior` to `path` (.npz), replacing the file in one step. Returns the path. Raises ConfigError."""
    path = _checked(path)
    counts = prior.counts
    header = {
        "format": FORMAT,
        "version": VERSION,
        **{name: getattr(counts, name) for name in _SIZES},
        "num_tokens": counts.num_tokens,
        "shrinkage": prior.shrinkage,
        "model": prior.model,
        "domains": list(prior.domains),
    }
    arrays = {name: _narrow(getattr(counts, name)) for name in _ARRAYS}
    if prior.calibration is not None:
        arrays["change_LEE"] = prior.calibration.change_LEE
    arrays["cell_N"] = _narrow(np.diff(counts.cell_N, prepend=0))  # steps are small, so that they compress
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)
    return path


def read_token_prior(path: str | Path) -> TokenPrior:
    """Read a prior written by `TokenPrior.save`.

    Raises FileNotFoundError, ConfigError for another suffix, and FileFormatError, naming file and field, for anything
    that is wrong in it.
    """
    path = _checked(path)
    try:
        return _from_arrays(_read(path))
    except (
        EvenMoEError,
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        BadZipFile,
        OverflowError,
        MemoryError,
    ) as error:
        raise FileFormatError(f"{path} is not a token prior: {error}") from error


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ConfigError("token prior file", str(path), f"a name that ends in {SUFFIX}")
    return path


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> TokenPrior:
    missing = [name for name in ("header", *_ARRAYS) if name not in arrays]
    if missing:
        raise FileFormatError(f"it lacks {', '.join(missing)}")
    header = _header(str(arrays["header"]))
    given: dict[str, Any] = {name: _integers(name, arrays[name]) for name in _ARRAYS}
    given["cell_N"] = given["cell_N"].cumsum()
    counts = TokenCounts(**{name: header[name] for name in _SIZES}, **given)
    if counts.num_tokens != header["num_tokens"]:
        raise FileFormatError(
            f"num_tokens is {header['num_tokens']!r}, but seen_R sums to {counts.num_tokens}"
        )
    return TokenPrior(
        counts=counts,
        shrinkage=header["shrinkage"],
        calibration=_calibration(arrays.get("change_LEE")),
        model=header["model"],
        domains=tuple(header["domains"]),
    )


def _header(text: str) -> dict[str, Any]:
    header = json.loads(text)
    if not isinstance(header, dict):
        raise FileFormatError(f"header holds a {type(header).__name__}, not an object")
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise FileFormatError(
            f"format {header.get('format')!r} version {header.get('version')!r}; "
            f"this reads {FORMAT!r} version {VERSION}"
        )
    missing = [name for name in _HEADER if name not in header]
    if missing:
        raise FileFormatError(f"header lacks {', '.join(missing)}")
    for name in (*_SIZES, "num_tokens"):
        if type(header[name]) is not int:
            raise FileFormatError(f"{name} is {header[name]!r}, not an integer")
    if type(header["shrinkage"]) not in (int, float):
        raise FileFormatError(f"shrinkage is {header['shrinkage']!r}, not a number")
    if not isinstance(header["model"], str):
        raise FileFormatError(f"model is {header['model']!r}, not a text")
    domains = header["domains"]
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        raise FileFormatError(f"domains is {domains!r}, not a list of names")
    return header


def _integers(name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise FileFormatError(
            f"{name} is {values.dtype.name} of shape {values.shape}, not a list of integers"
        )
    return values.astype(np.int64)


def _calibration(change_LEE: NDArray[Any] | None) -> Calibration | None:
    if change_LEE is None:
        return None
    if change_LEE.dtype != np.float32:
        raise FileFormatError(f"change_LEE is {change_LEE.dtype.name}, not float32")
    return Calibration(change_LEE)


def _narrow(values: NDArray[np.int64]) -> NDArray[Any]:
    """The same numbers in the narrowest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))
