"""Tables for the terminal, drawn with rich; the HTML report has the same columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rich import box
from rich.table import Table

from evenmoe.evaluation.results import Results, Row
from evenmoe.loads import ExpertLoads, coefficient_of_variation, gini, peak_to_mean

_LOOKS: Any = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
NARROW = 136
"""Terminals of fewer columns get the narrow columns alone."""


@dataclass(frozen=True)
class Column:
    """One column of the results table, and whether it is shown where there is room, where there is not, or both."""

    name: str
    text: Callable[[Row], str]
    justify: Literal["left", "right"] = "right"
    where: Literal["both", "wide", "narrow"] = "both"


def _change(row: Row) -> str:
    if row.policy == "baseline":
        return ""
    change = f"{100 * row.accuracy_change:+.2f}"
    stderr = row.accuracy_change_stderr
    return change if stderr is None else f"{change} ± {100 * stderr:.2f}"


COLUMNS = (
    Column("policy", lambda row: row.family, "left"),
    Column("setting", lambda row: row.setting, "left"),
    Column("acc. %", lambda row: f"{100 * row.next_token_accuracy:.2f}"),
    Column("change ± s.e.", _change, where="wide"),
    Column("change", lambda row: _change(row).partition(" ")[0], where="narrow"),
    Column("bits/byte", lambda row: f"{row.bits_per_byte:.3f}", where="wide"),
    Column("drop %", lambda row: f"{100 * row.drop_rate:.1f}"),
    Column("peak before", lambda row: f"{row.peak_to_mean_before:.2f}", where="wide"),
    Column("peak", lambda row: f"{row.peak_to_mean_after:.2f}"),
    Column("straggler", lambda row: f"{row.straggler_factor:.2f}"),
    Column("gate mass %", lambda row: f"{100 * row.gate_mass_kept:.1f}", where="wide"),
    Column("no expert %", lambda row: f"{100 * row.tokens_without_expert:.2f}", where="wide"),
)
WIDE_COLUMNS = tuple(column for column in COLUMNS if column.where != "narrow")
NARROW_COLUMNS = tuple(column for column in COLUMNS if column.where != "wide")
LEGEND = (
    "change: accuracy against no limit, paired over windows; peak: busiest expert over the mean, as it ran; "
    "straggler: busiest device over the even load of all assignments."
)


def results_table(results: Results, width: int, title: str | None = None) -> Table:
    """All rows of a sweep, a rule between policies; fewer columns if `width` is under NARROW."""
    columns = WIDE_COLUMNS if width >= NARROW else NARROW_COLUMNS
    table = Table(title=title, title_justify="left", caption=LEGEND, caption_justify="left", **_LOOKS)
    for column in columns:
        table.add_column(column.name, justify=column.justify, no_wrap=True)
    for row, following in zip(results.rows, (*results.rows[1:], None), strict=True):
        ends = following is not None and following.family != row.family
        table.add_row(*(column.text(row) for column in columns), end_section=ends)
    return table


def results_markdown(results: Results) -> str:
    """All rows of a sweep as a Markdown table, to paste into a page or an issue."""
    lines = [
        "| " + " | ".join(column.name for column in WIDE_COLUMNS) + " |",
        "|" + "|".join("---" if column.justify == "left" else "---:" for column in WIDE_COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(column.text(row) for column in WIDE_COLUMNS) + " |" for row in results.rows]
    return "\n".join(lines)


def loads_table(loads: ExpertLoads, width: int, title: str | None = None) -> Table:
    """How uneven the experts are, per layer: the busiest over the mean, for everything and for each domain.

    A terminal of at least NARROW columns also gets the coefficient of variation, Gini and the idle experts.
    """
    table = Table(title=title, title_justify="left", **_LOOKS)
    table.add_column("layer", no_wrap=True)
    for name, _ in loads:
        table.add_column("all" if name == "total" else name, justify="right", overflow="fold")
    spread = width >= NARROW
    for name in ("CV", "Gini", "idle experts") if spread else ():
        table.add_column(name, justify="right")
    for layer, layer_name in enumerate(short_names(loads.layers)):
        num_experts = int(loads.num_experts_L[layer])
        load_E = loads.total.before_LE[layer, :num_experts]
        cells = [f"{peak_to_mean(counts.before_LE[layer, :num_experts]):.2f}" for _, counts in loads]
        if spread:
            cells += [
                f"{coefficient_of_variation(load_E):.2f}",
                f"{gini(load_E):.2f}",
                str(int(np.sum(load_E == 0))),
            ]
        table.add_row(layer_name, *cells)
    return table


def short_names(layers: Sequence[str]) -> list[str]:
    """The number in each layer's name where that tells them apart, else the whole names."""
    numbers = [re.findall(r"\d+", name) for name in layers]
    if all(len(found) == 1 for found in numbers) and len({found[0] for found in numbers}) == len(layers):
        return [found[0] for found in numbers]
    return list(layers)
