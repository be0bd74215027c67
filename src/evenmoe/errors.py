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

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.allowed)


class ShapeError(EvenMoEError, ValueError):
    """Tensors that belong together have shapes that disagree."""


class UnsupportedModelError(EvenMoEError):
    """The model, or one of its layers, is not one that evenmoe can attach to."""


class AttachError(EvenMoEError, RuntimeError):
    """Attaching or detaching was asked for in a state that does not allow it."""


class FileFormatError(EvenMoEError, ValueError):
    """A file is not what its name or its header says."""


class RankError(EvenMoEError, RuntimeError):
    """A rank died, hangs, failed or left, so the others had to stop. `rank` is None where it cannot be told which."""

    def __init__(self, rank: int | None, reason: str) -> None:
        self.rank, self.reason = rank, reason
        super().__init__(reason if rank is None else f"rank {rank} {reason}")

    def __reduce__(self) -> tuple[type[RankError], tuple[int | None, str]]:
        """Pickle by the constructor's arguments, not by the message."""
        return type(self), (self.rank, self.reason)


def check_choice(field: str, value: object, allowed: Iterable[str]) -> None:
    """Raise ConfigError unless `value` is one of the names in `allowed`; the message lists them."""
    names = tuple(allowed)
    if value not in names:
        raise ConfigError(field, value, "one of " + ", ".join(names))
