"""Stopwatch: what may listen to how long the parts of an MoE layer take."""

from __future__ import annotations

from typing import Literal, Protocol

Phase = Literal["gate", "policy", "permute", "dispatch", "expert", "combine", "wait", "rest"]
"""gate: the router. policy: what is kept. permute: rows sorted, gathered and summed. dispatch, combine: the exchange to
the experts and back. expert: the experts themselves. wait: at a barrier, for slower ranks. rest: what the block does
between its router and its experts, such as shared experts that run there."""


class Stopwatch(Protocol):
    """Hears when a layer begins, when a phase of it has ended, and when its output is there.

    separates_waiting: whether deliveries meet at a barrier before each exchange and mark the time there as "wait",
        so that an exchange is timed without the slowness of others.
    """

    @property
    def separates_waiting(self) -> bool: ...

    def start(self, layer: int) -> None:
        """The layer's router is about to run."""

    def mark(self, phase: Phase) -> None:
        """The time since the last start or mark was this phase."""

    def stop(self) -> None:
        """The output of the layer's experts is there."""


class NoStopwatch:
    """Times nothing."""

    separates_waiting = False

    def start(self, layer: int) -> None:
        """Do nothing."""

    def mark(self, phase: Phase) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


NO_STOPWATCH = NoStopwatch()
