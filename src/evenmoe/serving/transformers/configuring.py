"""Configured: what the schedulers are configured by that transformers makes, with a cache and two limits alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.serving.admission import Admission, Shape
from evenmoe.serving.config import ServingConfig

if TYPE_CHECKING:
    from evenmoe.serving.transformers.scheduler import ExpertAwareScheduler

_STACK: list[Configured] = []
_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Note:
    """What transformers' requests have no field for: a priority (lower goes first) and the client's own load."""

    priority: int = 0
    load_X: NDArray[np.float32] | None = None


NOTHING = Note()


class Configured:
    """A configuration in force; see `configured`. Made where a scheduler may be made, in whatever thread."""

    def __init__(self, config: ServingConfig, shape: Shape | None = None) -> None:
        self.config, self.shape = config, shape
        self.scheduler: ExpertAwareScheduler | None = None
        self._notes: dict[str, Note] = {}
        self._admissions: dict[int, Admission] = {}

    def __enter__(self) -> Configured:
        with _LOCK:
            _STACK.append(self)
        return self

    def __exit__(self, *_exception: object) -> None:
        with _LOCK:
            _STACK.remove(self)

    def note(self, request_id: str, note: Note) -> None:
        """Say more of a request than transformers can, before it is added under this name."""
        self._notes[request_id] = note

    def note_of(self, request_id: str) -> Note:
        """What was said of a request."""
        return self._notes.get(request_id, NOTHING)

    def forget(self, request_id: str) -> None:
        """A request is over."""
        self._notes.pop(request_id, None)

    def admission(self, most_of_one: int) -> Admission:
        """The queue of this configuration's schedulers: one after the other they learn from what was observed."""
        if most_of_one not in self._admissions:
            self._admissions[most_of_one] = Admission(
                self.config.scheduling, routing=self.config.routing, shape=self.shape, most_of_one=most_of_one
            )
        return self._admissions[most_of_one]


def configured(config: ServingConfig) -> Configured:
    """Configure the schedulers that transformers makes within the block, for `scheduler_type="evenmoe"`.

    `generate_batch` makes its scheduler before it returns. A manager of your own makes it when it is warmed up, else in
    its thread after `start()`: keep such a manager within the block.
    """
    return Configured(config)


def current() -> Configured:
    """The innermost configuration in force. Raises ConfigError where there is none."""
    with _LOCK:
        if not _STACK:
            allowed = "used within `with evenmoe.serving.transformers.configured(ServingConfig(...)):`"
            raise ConfigError("scheduler_type", "evenmoe", allowed)
        return _STACK[-1]
