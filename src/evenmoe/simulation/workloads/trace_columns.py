"""The columns of a trace while it is read, one request after another, each value checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from evenmoe.simulation.workloads.lengths import MOST_TOKENS
from evenmoe.simulation.workloads.text_lines import Place

MOST_SECONDS = 1e12
"""Times above this (30,000 years) are damage, and would lose the microseconds."""


@dataclass
class Columns:
    """What a trace file holds, an entry per request; a column that the format lacks stays empty."""

    times_s: list[float] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)

    def add_time(self, name: str, time_s: float, written: object, place: Place) -> None:
        """Append a time, which must be a number, not negative, and none before the one of the request before."""
        if not (math.isfinite(time_s) and 0 <= time_s <= MOST_SECONDS):
            place.refuse(name, written, f"a time from 0 to {MOST_SECONDS:g} seconds")
        if self.times_s and time_s < self.times_s[-1]:
            late_s = self.times_s[-1] - time_s
            place.refuse(
                name, written, f"no time before that of the request above ({late_s:.6g} s later): sort them"
            )
        self.times_s.append(time_s)


def checked_tokens(name: str, value: int | None, written: object, place: Place) -> int:
    """`value`, an integer from 1 to MOST_TOKENS; None stands for what is no integer."""
    if value is None or not 1 <= value <= MOST_TOKENS:
        place.refuse(name, written, f"an integer from 1 to {MOST_TOKENS}")
    return value
