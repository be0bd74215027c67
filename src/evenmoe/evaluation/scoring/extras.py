"""Optional dependencies: one error that names the extra to install."""

from __future__ import annotations

from importlib.util import find_spec

from evenmoe.errors import EvenMoEError


class MissingExtraError(EvenMoEError, ImportError):
    """A package that only some commands need is not installed."""


def require_extra(extra: str, *packages: str) -> None:
    """Raise MissingExtraError unless every package can be imported; the message says what to install."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)} is not installed: this needs the extra {extra!r}, pip install 'evenmoe[{extra}]'"
        )
