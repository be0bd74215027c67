"""Traces: recorded arrivals with their lengths. Shape letters: N requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError, FileFormatError, ShapeError
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.workloads.text_lines import Place, check_suffix, read_text
from evenmoe.simulation.workloads.trace_columns import Columns
from evenmoe.simulation.workloads.trace_csv import csv_columns
from evenmoe.simulation.workloads.trace_jsonl import jsonl_columns

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SUFFIXES = (".csv", ".jsonl")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Requests in order of arrival, at least one.

    source: where it comes from, for people.
    times_s: [N] seconds since the first request, which is at 0.
    prompt_tokens, output_tokens: [N], at least 1.
    topics, topic_N: the names of the topics, and each request's index among them; () and None where it has none.
    session_N: the number of each request's session, from 0; None where the trace does not know sessions.
    Raises ShapeError for columns of different lengths, ConfigError for none, unsorted times and lengths below 1.
    """

    source: str
    times_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    topics: tuple[str, ...] = ()
    topic_N: Ints | None = None
    session_N: Ints | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "topic_N", "session_N"):
            column = getattr(self, name)
            if column is not None and column.shape != self.times_s.shape:
                raise ShapeError(f"{name} has shape {column.shape}, times_s {self.times_s.shape}")
        if not len(self.times_s) or self.times_s[0] != 0 or not (np.diff(self.times_s) >= 0).all():
            raise ConfigError(
                "times_s", self.times_s, "at least one time; the first 0, none before the one above"
            )
        for name in ("prompt_tokens", "output_tokens"):
            if getattr(self, name).min() < 1:
                raise ConfigError(name, int(getattr(self, name).min()), "at least 1")

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second: gaps between arrivals over their sum. Infinite where all arrive at once."""
        span_s = float(self.times_s[-1] - self.times_s[0])
        return (len(self) - 1) / span_s if span_s > 0 else float("inf")

    def scaled(self, *, factor: float | None = None, rate_per_s: float | None = None) -> Trace:
        """The same requests in other time: every time times `factor` (below 1 is faster), or at a mean rate.

        Raises ConfigError unless one of the two is given and above 0, and for a rate where all arrive at once.
        """
        if (factor is None) == (rate_per_s is None):
            raise ConfigError("factor", factor, "given, or rate_per_s given instead")
        if rate_per_s is not None:
            check_number("rate_per_s", rate_per_s, 0.0, above=True)
            if not np.isfinite(self.rate_per_s):
                raise ConfigError("rate_per_s", rate_per_s, f"None: all of {self.source} arrives at once")
            factor = self.rate_per_s / rate_per_s
        check_number("factor", factor, 0.0, above=True)
        assert factor is not None
        return replace(self, times_s=self.times_s * factor)

    def cut(
        self, *, num_requests: int | None = None, start_s: float = 0.0, stop_s: float | None = None
    ) -> Trace:
        """The requests from `start_s` to before `stop_s`, of those the first `num_requests`; time begins anew.

        Raises ConfigError where nothing is left.
        """
        check_number("start_s", start_s, 0.0)
        stop = len(self)
        start = int(np.searchsorted(self.times_s, start_s, side="left"))
        if stop_s is not None:
            check_number("stop_s", stop_s, start_s, above=True)
            stop = int(np.searchsorted(self.times_s, stop_s, side="left"))
        if num_requests is not None:
            check_int("num_requests", num_requests, 1)
            stop = min(stop, start + num_requests)
        if start >= stop:
            last_s = float(self.times_s[-1])
            raise ConfigError(
                "start_s, stop_s", (start_s, stop_s), f"a range with a request; the last is at {last_s:g}"
            )
        kept: dict[str, Any] = {}
        for name in ("times_s", "prompt_tokens", "output_tokens", "topic_N", "session_N"):
            column = getattr(self, name)
            kept[name] = None if column is None else column[start:stop]
        return replace(self, **(kept | {"times_s": kept["times_s"] - kept["times_s"][0]}))

    def spread_ties(self) -> Trace:
        """The same requests, those of one time spread evenly up to the next; the last group keeps its time.

        For traces whose clock is coarse (Mooncake's ticks every 3 s): else each tick is a burst that never was.
        """
        starts = np.flatnonzero(np.diff(self.times_s, prepend=-1.0))
        sizes = np.diff(starts, append=len(self))
        room_s = np.diff(self.times_s[starts], append=self.times_s[-1])
        place_in_group = np.arange(len(self)) - np.repeat(starts, sizes)
        return replace(self, times_s=self.times_s + place_in_group * np.repeat(room_s / sizes, sizes))


def read_trace(path: str | Path) -> Trace:
    """Read a trace: Azure's CSV, Mooncake's JSONL, or a CSV of `arrived_s,prompt_tokens,output_tokens[,topic]`.

    `.gz` is unpacked. Formats: docs/workloads.md. Raises FileNotFoundError; FileFormatError, which names file, line,
    field, value and what is allowed.
    """
    path = Path(path)
    suffix = check_suffix(path, SUFFIXES, "a trace")
    place = Place(path)
    columns = (jsonl_columns if suffix == ".jsonl" else csv_columns)(read_text(path), place)
    if not columns.times_s:
        raise FileFormatError(f"{path}, line {place.line}: it ends without a request")
    return _trace(path, columns)


def _trace(path: Path, columns: Columns) -> Trace:
    times_s = np.array(columns.times_s, dtype=np.float64)
    topics = tuple(dict.fromkeys(columns.topics))
    index_of_name = {name: index for index, name in enumerate(topics)}
    return Trace(
        source=path.name,
        times_s=times_s - times_s[0],
        prompt_tokens=np.array(columns.prompt_tokens, dtype=np.int64),
        output_tokens=np.array(columns.output_tokens, dtype=np.int64),
        topics=topics,
        topic_N=np.array([index_of_name[name] for name in columns.topics], dtype=np.int64)
        if topics
        else None,
        session_N=np.array(columns.sessions, dtype=np.int64) if columns.sessions else None,
    )
