"""What the `simulate` commands share: options that take several values, and how their text is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from evenmoe.errors import ConfigError


class ManyValues(TyperCommand):
    """A command whose repeatable options also take several values in a row: --seeds 1 2 is --seeds 1 --seeds 2.

    For commands without arguments: a value that follows a value can only be the option's.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the option again before each further value, then parse as ever."""
        repeatable = {
            name for param in self.params if getattr(param, "multiple", False) for name in param.opts
        }
        return super().parse_args(ctx, repeated(args, repeatable))


def repeated(args: Sequence[str], repeatable: set[str]) -> list[str]:
    """`args` with the name of a repeatable option put before each of its values after the first."""
    found: list[str] = []
    current, num_values = "", 0
    for word in args:
        if word.startswith("-"):
            current, num_values = word, 0
        else:
            if num_values and current in repeatable:
                found.append(current)
            num_values += 1
        found.append(word)
    return found


def words(values: Sequence[str]) -> tuple[str, ...]:
    """The values of a repeatable option, of which each may be a comma list."""
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


def whole_numbers(field: str, values: Sequence[str], least: int = 0) -> tuple[int, ...]:
    """Those words as whole numbers. Raises ConfigError for a word that is none, or under `least`."""
    found = []
    for word in words(values):
        if not word.isdecimal() or int(word) < least:
            raise ConfigError(field, word, f"whole numbers of at least {least}")
        found.append(int(word))
    return tuple(found)


def positive_numbers(field: str, values: Sequence[str]) -> tuple[float, ...]:
    """Those words as numbers above 0. Raises ConfigError for a word that is none."""
    found = []
    for word in words(values):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise ConfigError(field, word, "numbers above 0")
        found.append(number)
    return tuple(found)
