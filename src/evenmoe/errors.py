"""The errors evenmoe raises on purpose. Each message names the field, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


class EvenMoEError(Exception):
    """Base of every error raised by evenmoe itself."""


class ConfigError(EvenMoEError, ValueError):
    """A setting has a value that is not allowed, or that could not act."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field} = {value!r} is not allowed: {allowed}")


class ShapeError(EvenMoEError, ValueError):
    """Tensors that belong together have shapes that disagree."""


class UnsupportedModelError(EvenMoEError):
    """The model, or one of its layers, is not one that evenmoe can attach to."""


class AttachError(EvenMoEError, RuntimeError):
    """Attaching or detaching was asked for in a state that does not allow it."""


class FileFormatError(EvenMoEError, ValueError):
    """A file is not what its name or its header says."""


def check_choice(field: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of the names in `allowed`; the message lists them."""
    names = tuple(allowed)
    if value not in names:
        raise ConfigError(field, value, "one of " + ", ".join(names))
