"""The batch scheduler: requests queue with their predicted loads, batches come out. Thread-safe, on any clock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.assignment import assign
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
    device: int
    """Whose share of the batch it joins; 0 where there is one device."""


@dataclass(eq=False, slots=True)
class _Waiting:
    key: Hashable
    payload: Any
    load_X: Floats
    tokens: int
    arrived_ms: float
    leaves_by: int
    """Under `auto`: how many requests may be gone before it leaves."""
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
        # a plain dict that loses its first entries again and again is slow to find the first that is left
        self._queue: OrderedDict[Hashable, _Waiting] = OrderedDict()
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
        load = _as_load(load_X)
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
            size = self.config.max_batch_size
            late = max(0, int(self.config.options.max_delay * len(self._queue) / size) - 1)
            leaves_by = self._num_submitted + late * size
            self._queue[key] = _Waiting(key, payload, load, int(tokens), self._clock(), leaves_by)
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

    def next_batch(
        self,
        *,
        flush: bool = False,
        room: int | None = None,
        most_tokens: int | None = None,
        running_X: ArrayLike | None = None,
    ) -> list[Scheduled] | None:
        """The next batch in the order of picking, or None where none is due; `flush` does not ask whether it is due.

        The others are for engines whose requests join a batch that runs already:
        room: requests at most, instead of `max_batch_size`.
        most_tokens: tokens at most; a request that has more counts as so many, as it can be cut.
        running_X: [X] load of what runs, which the strategy takes as picked already. The oldest request is then not
            forced, so that there is a choice where one place is free; `max_passed_over` bounds how long it waits.
        Raises ConfigError for a room or tokens below 1; ShapeError, ConfigError for a load that is none.
        """
        for field, value in (("room", room), ("most_tokens", most_tokens)):
            if value is not None and value < 1:
                raise ConfigError(field, value, "at least 1")
        with self._lock:
            due_ms = self.due_ms()
            if due_ms is None or not (flush or due_ms <= self._clock()):
                return None
            candidates = list(islice(self._queue.values(), self.config.window_size))
            picked = self._pick(candidates, room or self.config.max_batch_size, most_tokens, running_X)
            batch = [candidates[index] for index in picked]
            is_picked = set(picked)
            for index in range(max(picked)):
                candidates[index].passed_over += index not in is_picked
            assert self._window is not None
            if in_window := [index for index in picked if index < len(self._window)]:
                self._window.remove(in_window)
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
                    device=device,
                )
                for waiting, device in zip(batch, self._devices(batch), strict=True)
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

    def _pick(
        self,
        candidates: list[_Waiting],
        room: int,
        most_tokens: int | None,
        running_X: ArrayLike | None,
    ) -> list[int]:
        """Indices of the candidates that run: those passed over often enough first, then as the strategy says."""
        assert self._window is not None
        bound = self.config.max_passed_over
        first = [index for index, waiting in enumerate(candidates) if waiting.passed_over >= bound]
        budget, tokens_W = self._limits(candidates, most_tokens)
        if running_X is None and not (first and first[0] == 0):
            first = [0, *first]
        if self.config.strategy == "auto":
            first += self._not_later(candidates, room, first, tokens_W, budget)
        is_settled = len(candidates) <= room or len(first) >= room or self.config.strategy == "fcfs"
        if budget is None and is_settled:
            # there is nothing to choose, so that the window need not know of those who come and go meanwhile
            return list(dict.fromkeys([*first, *range(len(candidates))]))[:room]
        late = candidates[len(self._window) :]
        if late:
            self._window.add([waiting.load_X for waiting in late])
        picked = select(
            self.config.strategy,
            self._window,
            room,
            rng=self._rng,
            first=first,
            tokens_W=tokens_W,
            token_budget=budget,
            base_X=running_X,
            options=self.config.options,
        )
        return [int(index) for index in picked]

    def _not_later(
        self,
        candidates: list[_Waiting],
        room: int,
        first: list[int],
        tokens_W: list[int] | None,
        budget: int | None,
    ) -> list[int]:
        """`auto`: who would leave now in order of arrival and must not leave later; of them, those that still fit."""
        gone, is_first = self._num_handed_out + self._num_cancelled, set(first)
        left = 0 if tokens_W is None or budget is None else budget - sum(tokens_W[index] for index in first)
        found = []
        for index, waiting in enumerate(candidates):
            if waiting.leaves_by >= gone + room or index in is_first:
                continue
            if tokens_W is not None:
                if tokens_W[index] > left:
                    continue
                left -= tokens_W[index]
            found.append(index)
        return found

    def _devices(self, batch: list[_Waiting]) -> list[int]:
        """The device whose share each request of the batch joins."""
        if self.config.num_devices == 1:
            return [0] * len(batch)
        device_B = assign(
            [waiting.load_X for waiting in batch],
            [waiting.tokens for waiting in batch],
            num_devices=self.config.num_devices,
            method=self.config.assign,
            rng=self._rng,
        )
        return [int(device) for device in device_B]

    def _limits(
        self, candidates: list[_Waiting], most_tokens: int | None
    ) -> tuple[int | None, list[int] | None]:
        """The tokens of a batch, and those that each candidate counts for; None where there is no limit."""
        budget = self.config.token_budget
        if most_tokens is not None:
            budget = most_tokens if budget is None else min(budget, most_tokens)
            return budget, [min(waiting.tokens, budget) for waiting in candidates]
        return budget, None if budget is None else [waiting.tokens for waiting in candidates]

    def _new_window(self, length: int) -> Window:
        return Window(length, num_layers=self.config.num_layers)

    def _check_if_idle(self) -> None:
        if not self._queue:
            self.check_integrity()


def _as_load(load_X: ArrayLike) -> Floats:
    """[X]: a checked copy. Raises as `as_loads` does, which is only asked where two cheaper questions leave a doubt."""
    load = np.array(load_X, dtype=np.float64)
    if load.ndim == 1 and load.size and np.minimum.reduce(load) >= 0 and load @ load < np.inf:
        return load
    return np.asarray(as_loads(load[None])[0])
