"""Trend: whether a measured quantity grows in the course of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.serving.load.record import Record
from evenmoe.simulation.studies.intervals import student_t

BLOCKS = 10
"""Neighbouring measurements are alike, so that their number says little: a line is put through the means of so many
blocks, whose scatter says how sure it is."""


@dataclass(frozen=True, kw_only=True)
class Trend:
    """The slope of a quantity, with Student's 95% interval. level: its mean."""

    slope: float
    low: float
    high: float
    level: float

    def is_flat(self, span: float, most_growth: float) -> bool:
        """Whether it surely grows by no more than `most_growth` over `span`: the upper end of the interval decides."""
        return self.high * span <= most_growth


def trend(x: Sequence[float], y: Sequence[float], blocks: int = BLOCKS) -> Trend:
    """The line of least squares through the means of `blocks` equal parts, in order of x.

    Raises ConfigError for fewer than 3 blocks, fewer points than blocks, and points at a single x.
    """
    if blocks < 3:
        raise ConfigError("blocks", blocks, "at least 3")
    if len(x) < blocks or len(x) != len(y):
        raise ConfigError("points", (len(x), len(y)), f"at least {blocks} of both")
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, blocks)
    means_x = np.array([np.asarray(x, dtype=np.float64)[part].mean() for part in parts])
    means_y = np.array([np.asarray(y, dtype=np.float64)[part].mean() for part in parts])
    away = means_x - means_x.mean()
    spread = float((away**2).sum())
    if not spread > 0:
        raise ConfigError("x", float(means_x[0]), "values that differ")
    slope = float((away * means_y).sum()) / spread
    left = means_y - means_y.mean() - slope * away
    error = float(np.sqrt((left**2).sum() / (blocks - 2) / spread))
    half = student_t(blocks - 2) * error
    return Trend(slope=slope, low=slope - half, high=slope + half, level=float(means_y.mean()))


def backlog_trend(records: Sequence[Record]) -> Trend:
    """How many requests more are open with each further one that is due: 0 where the server keeps up.

    A server that is asked for a share s > 1 of what it can do leaves 1 - 1 / s of every request behind. The first
    tenth, which finds the server idle, is left out. Raises ConfigError for too few requests.
    """
    due = np.sort([record.planned_s for record in records])
    ends = np.sort([record.ended_s for record in records])
    open_N = np.arange(1, len(due) + 1) - np.searchsorted(ends, due, side="right")
    start = len(due) // 10
    return trend(np.arange(start, len(due)).tolist(), open_N[start:].tolist())
