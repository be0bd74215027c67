"""Supervise an engine from its start to its end: loading, serving, stopping. Nothing is left behind."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from evenmoe.serving.launch.addresses import is_healthy
from evenmoe.serving.launch.draining import DRAINED
from evenmoe.serving.launch.process import EngineProcess
from evenmoe.serving.launch.reasons import error_lines, in_words, tells_of_death

logger = logging.getLogger(__name__)

POLL_S = 0.1
STILL_LOADING_S = 15.0
"""How often progress of loading is told."""
TERMINATE_S = 3.0
"""How long an engine that is stopped while it loads may take."""
OWN_END_S = 2.0
"""How much longer than the timeout an engine may take that keeps the time itself."""
CLOSING_S = 15.0
"""How much longer it may take to close where every accepted request is answered."""
INTERRUPTED = 130


@dataclass
class Asked:
    """The signals that asked for a stop, in order."""

    signals: list[signal.Signals] = field(default_factory=list)

    @property
    def to_stop(self) -> bool:
        """Whether any came."""
        return bool(self.signals)

    @property
    def to_stop_at_once(self) -> bool:
        """Whether Ctrl-C came after the first."""
        return signal.SIGINT in self.signals[1:]


@contextmanager
def listening() -> Iterator[Asked]:
    """Take SIGINT, SIGTERM and SIGHUP as requests to stop, as long as this lasts. In the main thread only."""
    asked = Asked()

    def note(number: int, frame: FrameType | None) -> None:
        asked.signals.append(signal.Signals(number))

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Supervisor:
    """Watches one engine.

    url: where it will answer /health.
    tell: called with sentences for people.
    on_ready: called once, when it answers, with the seconds that it took.
    clean_up_s: how long an ended engine's children may take to end too, before they are ended.
    """

    def __init__(
        self,
        engine: EngineProcess,
        asked: Asked,
        *,
        url: str,
        shutdown_timeout_s: float,
        tell: Callable[[str], None],
        on_ready: Callable[[float], None],
        clean_up_s: float = 5.0,
    ) -> None:
        self._engine, self._asked, self._url = engine, asked, url
        self._shutdown_timeout_s, self._clean_up_s = shutdown_timeout_s, clean_up_s
        self._tell, self._on_ready = tell, on_ready

    def run(self) -> int:
        """The exit status: 0 after an orderly stop, 1 if the engine died, 130 if interrupted. No process is left."""
        try:
            if not self._load():
                return self._ended_while_loading()
            while self._engine.status is None and not self._asked.to_stop:
                time.sleep(POLL_S)
            if self._engine.status is not None and not self._asked.to_stop:
                return self._died("The engine ended by itself")
            return self._stop()
        finally:
            self._engine.kill()

    def _load(self) -> bool:
        """Whether the server came to answer, before it ended or was told to."""
        start = told = time.monotonic()
        while self._engine.status is None and not self._asked.to_stop:
            if is_healthy(self._url):
                self._on_ready(time.monotonic() - start)
                return True
            if time.monotonic() - told >= STILL_LOADING_S:
                told = time.monotonic()
                self._tell(f"Still loading after {told - start:.0f} s.")
            time.sleep(POLL_S)
        return False

    def _ended_while_loading(self) -> int:
        if not self._asked.to_stop:
            return self._died("The engine ended before it was ready")
        self._tell("Stopped while loading.")
        self._engine.send(signal.SIGTERM)
        deadline = time.monotonic() + TERMINATE_S
        while self._engine.status is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return 128 + self._asked.signals[0]

    def _stop(self) -> int:
        """Let accepted requests finish, up to the timeout."""
        lines = self._engine.num_lines
        self._tell(
            f"Stopping: accepted requests have up to {self._shutdown_timeout_s:g} s to finish, new ones are refused. "
            "Ctrl-C ends at once."
        )
        self._engine.send(signal.SIGTERM)
        deadline = time.monotonic() + self._shutdown_timeout_s
        is_drained = False
        while self._engine.status is None:
            is_drained = is_drained or any(DRAINED in line for line in self._engine.log_since(lines))
            if self._asked.to_stop_at_once:
                self._tell("Ended at once: requests that were not finished are lost.")
                return INTERRUPTED
            if time.monotonic() > deadline + (CLOSING_S if is_drained else OWN_END_S):
                self._tell(self._overdue(is_drained))
                return 1
            time.sleep(POLL_S)
        self._engine.close(self._clean_up_s)
        if self._engine.status != 0 or tells_of_death(self._engine.log_since(lines)):
            return self._died("The engine failed while it was stopping")
        self._tell("Stopped.")
        return 0

    def _overdue(self, is_drained: bool) -> str:
        if is_drained:
            return "Every accepted request is answered, but the engine did not close and was ended."
        return (
            f"The engine had not stopped after {self._shutdown_timeout_s:g} s and was ended: "
            "requests that were not finished are lost. --shutdown-timeout gives them longer."
        )

    def _died(self, what: str) -> int:
        self._engine.close(self._clean_up_s)
        status = self._engine.status
        self._tell(f"{what}: it {in_words(status or 0)}.")
        for line in error_lines(self._engine.log):
            self._tell(f"  {line}")
        return 1
