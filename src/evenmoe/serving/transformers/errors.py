"""EngineError: transformers' generation engine stopped, or a request of it failed."""

from __future__ import annotations

from evenmoe.errors import EvenMoEError


class EngineError(EvenMoEError, RuntimeError):
    """The engine that generates tokens stopped, or could not finish a request; the message says why."""
