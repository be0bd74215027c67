"""Checks of the settings that the simulation's configs share."""

from __future__ import annotations

import math

from evenmoe.errors import ConfigError


def check_int(field: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(field, value, f"an integer of at least {least}")


def check_number(field: str, value: object, least: float, *, above: bool = False) -> None:
    """Raise ConfigError unless `value` is a finite number of at least `least`; with `above`, greater than it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (above and value == least):  # type: ignore[operator]
        raise ConfigError(field, value, f"a number {'above' if above else 'of at least'} {least:g}")
