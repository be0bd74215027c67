"""The batch scheduler: requests queue with their predicted loads, batches come out. Thread-safe, on any clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.config import SchedulerConfig
from evenmoe.scheduling.selecting import select
from evenmoe.scheduling.window import Floats, Window, as_loads


@dataclass(frozen=True, kw_only=True, eq=False)
class Scheduled:
    """A request that was handed out in a batch."""

    key: Hashable
    payload: Any
    tokens: int
    arrived_ms: float
    passed_over: int
    """Batches that took a younger request before this one."""


@dataclass(eq=False)
class _Waiting:
    key: Hashable
    payload: Any
    load_X: Floats
    tokens: int
    arrived_ms: float
    passed_over: int = 0


class BatchScheduler:
    """A queue of requests, and the rule by which they leave it together.

    config: see SchedulerConfig.
    clock: the time in milliseconds. It may be a simulation's; it must not run back.
    length: entries of every load vector; None takes those of the first request.

    Every public method may be called from any thread. What was submitted is handed out exactly once, unless cancelled.
    """

    def __init__(
        self, config: SchedulerConfig, *, clock: Callable[[], float], length: int | None = None
    ) -> None:
        self.config = config
        self._clock = clock
        self._lock = threading.RLock()
        self._rng = np.random.default_rng(config.seed)
        self._queue: dict[Hashable, _Waiting] = {}
        self._window: Window | None = None if length is None else self._new_window(length)
        self._num_submitted = self._num_handed_out = self._num_cancelled = 0

    def __len__(self) -> int:
        """Requests that wait."""
        with self._lock:
            return len(self._queue)

    def submit(self, key: Hashable, load_X: ArrayLike, *, tokens: int = 0, payload: Any = None) -> None:
        """Queue a request under a name of its own, with its predicted load vector and its tokens in a batch.

        Raises ConfigError for a name that already waits, a load that is negative or not finite, tokens below 0 or above
        the token budget; ShapeError for a load vector of another length than the others.
        """
        load = as_loads(np.asarray(load_X, dtype=np.float64)[None])[0]
        budget = self.config.token_budget
        if tokens < 0 or (budget is not None and tokens > budget):
            allowed = "at least 0" if budget is None else f"from 0 to the token budget, {budget}"
            raise ConfigError("tokens", tokens, allowed)
        with self._lock:
            if key in self._queue:
                raise ConfigError("key", key, "a name that no waiting request has")
            if self._window is None:
                self._window = self._new_window(len(load))
            if len(load) != self._window.length:
                raise ShapeError(
                    f"a load vector has {len(load)} entries, those of the queue {self._window.length}"
                )
            waiting = _Waiting(key, payload, load, int(tokens), self._clock())
            self._queue[key] = waiting
            self._num_submitted += 1

    def cancel(self, key: Hashable) -> bool:
        """Take a request out of the queue; False where it does not wait (any more)."""
        with self._lock:
            if key not in self._queue:
                return False
            position = next(index for index, waiting in enumerate(self._queue) if waiting == key)
            if self._window is not None and position < len(self._window):
                self._window.remove([position])
            del self._queue[key]
            self._num_cancelled += 1
            self._check_if_idle()
            return True

    def due_ms(self) -> float | None:
        """When the next batch is due by the clock; None while nobody waits.

        At once with `min_batch_trigger` requests, else when the oldest has waited `scheduling_interval_ms`.
        """
        with self._lock:
            if not self._queue:
                return None
            oldest = next(iter(self._queue.values()))
            if len(self._queue) >= self.config.min_batch_trigger:
                return min(self._clock(), oldest.arrived_ms + self.config.scheduling_interval_ms)
            return oldest.arrived_ms + self.config.scheduling_interval_ms

    def next_batch(self, *, flush: bool = False) -> list[Scheduled] | None:
        """The next batch in the order of picking, or None where none is due; `flush` does not ask whether it is due."""
        with self._lock:
            due_ms = self.due_ms()
            if due_ms is None or not (flush or due_ms <= self._clock()):
                return None
            candidates = list(islice(self._queue.values(), self.config.window_size))
            picked = self._pick(candidates)
            batch = [candidates[index] for index in picked]
            is_picked = set(picked)
            for index in range(max(picked)):
                candidates[index].passed_over += index not in is_picked
            assert self._window is not None
            self._window.remove(picked)
            for waiting in batch:
                del self._queue[waiting.key]
            self._num_handed_out += len(batch)
            self._check_if_idle()
            return [
                Scheduled(
                    key=waiting.key,
                    payload=waiting.payload,
                    tokens=waiting.tokens,
                    arrived_ms=waiting.arrived_ms,
                    passed_over=waiting.passed_over,
                )
                for waiting in batch
            ]

    def check_integrity(self) -> None:
        """Raise AssertionError where a request was lost or doubled: a bug of ours. Runs whenever the queue empties."""
        with self._lock:
            gone = self._num_handed_out + self._num_cancelled
            if self._num_submitted != gone + len(self._queue):
                raise AssertionError(
                    f"{self._num_submitted} submitted, but {self._num_handed_out} handed out, {self._num_cancelled} "
                    f"cancelled and {len(self._queue)} waiting"
                )
            in_window = 0 if self._window is None else len(self._window)
            if in_window > len(self._queue):
                raise AssertionError(f"{in_window} requests in the window, {len(self._queue)} waiting")
            if self._window is not None and in_window:
                queued_WX = np.array([waiting.load_X for waiting in islice(self._queue.values(), in_window)])
                if not np.array_equal(self._window.loads().reshape(queued_WX.shape), queued_WX):
                    raise AssertionError("the window's loads are not those of the oldest waiting requests")

    def _pick(self, candidates: list[_Waiting]) -> list[int]:
        """Indices of the candidates that run: those passed over often enough first, then as the strategy says."""
        assert self._window is not None
        late = candidates[len(self._window) :]
        if late:
            self._window.add([waiting.load_X for waiting in late])
        overdue = [
            index
            for index, waiting in enumerate(candidates)
            if waiting.passed_over >= self.config.max_passed_over
        ]
        first = overdue if overdue and overdue[0] == 0 else [0, *overdue]
        has_budget = self.config.token_budget is not None
        picked = select(
            self.config.strategy,
            self._window,
            self.config.max_batch_size,
            rng=self._rng,
            first=first,
            tokens_W=[waiting.tokens for waiting in candidates] if has_budget else None,
            token_budget=self.config.token_budget,
            options=self.config.options,
        )
        return [int(index) for index in picked]

    def _new_window(self, length: int) -> Window:
        return Window(length, num_layers=self.config.num_layers)

    def _check_if_idle(self) -> None:
        if not self._queue:
            self.check_integrity()
