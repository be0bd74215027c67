"""A heat map of layers x devices in a terminal's cells, however few there are.

Shape letters: L layers (lines after folding), D devices (columns after folding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

Floats = NDArray[np.float64]

SHADES = " .:-=+*#%@"
HOTTEST = 2.0
"""The load over the even load from which a cell is as hot as can be."""
_RAMP = ((255, 255, 217), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38))
_NUMBER = 5


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Loads over the even load, folded to what fits.

    load_LD: the worst of those that share a cell. names: of the lines. per_line, per_column: layers and devices in one.
    cell: characters of a cell, with a number in it from 5 on.
    """

    load_LD: Floats
    names: Sequence[str]
    per_line: int
    per_column: int
    cell: int

    def line(self, index: int) -> Text:
        """One line of cells."""
        text = Text()
        for value in self.load_LD[index]:
            text.append(self._words(float(value)), style=_style(float(value)))
        return text

    def head(self) -> str:
        """Numbers of devices over their columns, where they fit."""
        starts = [str(column * self.per_column) for column in range(self.load_LD.shape[1])]
        if max(map(len, starts)) < self.cell:
            return "".join(start.rjust(self.cell) for start in starts)
        return f"{starts[0]} ... {starts[-1]}"

    def _words(self, value: float) -> str:
        if self.cell >= _NUMBER:
            return f"{value:.2f}".rjust(self.cell)
        level = min(int(value / HOTTEST * (len(SHADES) - 1)), len(SHADES) - 1)
        return SHADES[level] * self.cell


def fit_heat(load_LD: Floats, names: Sequence[str], *, columns: int, lines: int) -> Heat:
    """Fold loads into at most `columns` characters and `lines` lines, both at least 1: neighbours share their worst."""
    num_layers, num_devices = load_LD.shape
    per_line, per_column = -(-num_layers // max(lines, 1)), -(-num_devices // max(columns, 1))
    folded_LD = _worst(_worst(load_LD, per_line, axis=0), per_column, axis=1)
    firsts = range(0, num_layers, per_line)
    return Heat(
        load_LD=folded_LD,
        names=[_span(names, first, min(first + per_line, num_layers) - 1) for first in firsts],
        per_line=per_line,
        per_column=per_column,
        cell=min(_NUMBER + 1, max(columns // max(folded_LD.shape[1], 1), 1)),
    )


def _worst(load: Floats, size: int, *, axis: int) -> Floats:
    return np.asarray(np.maximum.reduceat(load, np.arange(0, load.shape[axis], size), axis=axis))


def _span(names: Sequence[str], first: int, last: int) -> str:
    return names[first] if first == last else f"{names[first]}-{names[last]}"


def _style(value: float) -> str:
    place = min(max(value / HOTTEST, 0.0), 1.0) * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True)
    )
    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 120 else "white"
    return f"{ink} on rgb({red},{green},{blue})"
