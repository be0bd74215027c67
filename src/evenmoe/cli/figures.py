"""Figures: tables of the benches, one row per setting, with as many columns as the terminal has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.table import Table

RowT = TypeVar("RowT")
ROOM = 110
"""Terminals of fewer columns get the columns alone that are not `wide`."""


@dataclass(frozen=True)
class Figure(Generic[RowT]):
    """One column: its name, the text of a row, and whether it is for wide terminals only."""

    name: str
    text: Callable[[RowT], str]
    wide: bool = False


def figures_table(
    title: str, label: Figure[RowT], figures: Sequence[Figure[RowT]], rows: Sequence[RowT], width: int
) -> Table:
    """A table with the label on the left and the figures that fit a terminal of `width` columns on the right."""
    shown = [figure for figure in figures if width >= ROOM or not figure.wide]
    space = 1 if width >= ROOM else 0
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, space, 0, 0), pad_edge=False
    )
    table.add_column(label.name, no_wrap=True)
    for figure in shown:
        table.add_column(figure.name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(label.text(row), *(figure.text(row) for figure in shown))
    return table


def in_ms(value: float) -> str:
    """Milliseconds to about three digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def in_gamma(value: float | None) -> str:
    """A capacity factor, or nothing."""
    return "" if value is None else f"{value:g}"
