"""The batch scheduler: requests queue with their predicted loads, batches come out. Thread-safe, on any clock."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.assignment import assign
from evenmoe.scheduling.config import SchedulerConfig
from evenmoe.scheduling.selecting import select
from evenmoe.scheduling.waiting import Load, Scheduled, Waiting, as_load
from evenmoe.scheduling.window import Floats, Window


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
        self._queue: OrderedDict[Hashable, Waiting] = OrderedDict()
        self._window: Window | None = None if length is None else self._new_window(length)
        self._num_submitted = self._num_handed_out = self._num_cancelled = 0

    def __len__(self) -> int:
        """Requests that wait."""
        with self._lock:
            return len(self._queue)

    def __contains__(self, key: object) -> bool:
        """Whether this request waits."""
        with self._lock:
            return key in self._queue

    def oldest(self, most: int | None = None) -> list[Hashable]:
        """Those that wait, the oldest first; at most so many."""
        with self._lock:
            return list(islice(self._queue, most))

    def submit(self, key: Hashable, load_X: Load, *, tokens: int = 0, payload: Any = None) -> None:
        """Queue a request under a name of its own, with its predicted load vector and its tokens in a batch.

        The load may be a function that gives it, which is called when the request is first compared with others: in a
        long queue most requests need none yet. Its load is checked then.
        Raises ConfigError for a name that already waits, a load that is negative or not finite, tokens below 0 or above
        the token budget; ShapeError for a load vector of another length than the others.
        """
        load = None if callable(load_X) else as_load(load_X)
        budget = self.config.token_budget
        if tokens < 0 or (budget is not None and tokens > budget):
            allowed = "at least 0" if budget is None else f"from 0 to the token budget, {budget}"
            raise ConfigError("tokens", tokens, allowed)
        with self._lock:
            if key in self._queue:
                raise ConfigError("key", key, "a name that no waiting request has")
            if load is not None:
                self._check_length(load)
            size = self.config.max_batch_size
            late = max(0, int(self.config.options.max_delay * len(self._queue) / size) - 1)
            leaves_by = self._num_submitted + late * size
            given = load_X if load is None else ()
            self._queue[key] = Waiting(
                key, payload, given, int(tokens), self._clock(), leaves_by, checked_X=load
            )
            self._num_submitted += 1

    def revise(self, key: Hashable, load_X: ArrayLike) -> bool:
        """Give a waiting request another load; False where it does not wait. Raises as `submit`."""
        load = as_load(load_X)
        with self._lock:
            waiting = self._queue.get(key)
            if waiting is None:
                return False
            self._check_length(load)
            if waiting.checked_X is not None and self._window is not None:
                oldest = islice(self._queue, len(self._window))
                position = next((index for index, one in enumerate(oldest) if one == key), None)
                if position is not None:
                    self._window.replace(position, load)
            waiting.checked_X, waiting.given = load, ()
            return True

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
            return self._hand_out(candidates, picked)

    def plan(
        self, *, room: int, running_X: Load | None = None, taken: Collection[Hashable] = ()
    ) -> list[Hashable]:
        """Whom `next_batch` would pick, in the order of picking; nobody leaves the queue until `take`.

        For engines that find out one by one who fits. `taken` of this queue are decided on: they count as picked,
        beside `room` others. running_X may be a function, which is called only where there is a choice to make.
        Raises ConfigError and ShapeError as `next_batch`.
        """
        if room < 1:
            raise ConfigError("room", room, "at least 1")
        with self._lock:
            candidates = list(islice(self._queue.values(), self.config.window_size + len(taken)))
            decided = [index for index, waiting in enumerate(candidates) if waiting.key in taken]
            if len(decided) == len(candidates):
                return []
            picked = self._pick(candidates, room + len(decided), None, running_X, decided)
            return [candidates[index].key for index in picked[len(decided) :]]

    def take(self, keys: Collection[Hashable]) -> list[Scheduled]:
        """Hand these out as one batch, by age; older ones that stay were passed over. Raises ConfigError for others."""
        with self._lock:
            missing = next((key for key in keys if key not in self._queue), None)
            if missing is not None:
                raise ConfigError("key", missing, "the name of a waiting request")
            wanted = set(keys)
            candidates: list[Waiting] = []
            picked: list[int] = []
            for index, waiting in enumerate(self._queue.values()):
                if len(picked) == len(wanted):
                    break
                candidates.append(waiting)
                if waiting.key in wanted:
                    picked.append(index)
            return self._hand_out(candidates, picked) if picked else []

    def check_integrity(self) -> None:
        """Raise AssertionError where a request was lost or doubled: a bug of ours. Runs whenever the queue empties."""
        with self._lock:
            gone = self._num_handed_out + self._num_cancelled
            if self._num_submitted != gone + len(self._queue):
                raise AssertionError(
                    f"{self._num_submitted} submitted, but {self._num_handed_out} handed out, {self._num_cancelled} "
                    f"cancelled and {len(self._queue)} waiting"
                )
            in_window = self._num_in_window
            if in_window > len(self._queue):
                raise AssertionError(f"{in_window} requests in the window, {len(self._queue)} waiting")
            if self._window is not None and in_window:
                queued_WX = np.array([waiting.load_X for waiting in islice(self._queue.values(), in_window)])
                if not np.array_equal(self._window.loads().reshape(queued_WX.shape), queued_WX):
                    raise AssertionError("the window's loads are not those of the oldest waiting requests")

    def _hand_out(self, candidates: list[Waiting], picked: list[int]) -> list[Scheduled]:
        """Take those picked of the oldest out of the queue."""
        batch = [candidates[index] for index in picked]
        is_picked = set(picked)
        for index in range(max(picked)):
            candidates[index].passed_over += index not in is_picked
        if in_window := [index for index in picked if index < self._num_in_window]:
            assert self._window is not None
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

    def _pick(
        self,
        candidates: list[Waiting],
        room: int,
        most_tokens: int | None,
        running_X: Load | None,
        decided: Collection[int] = (),
    ) -> list[int]:
        """Indices of the candidates that run: decided on, passed over often enough, then as the strategy says."""
        bound = self.config.max_passed_over
        first = [index for index, waiting in enumerate(candidates) if waiting.passed_over >= bound]
        budget, tokens_W = self._limits(candidates, most_tokens)
        if decided:
            first = [*decided, *(index for index in first if index not in decided)]
        elif running_X is None and not (first and first[0] == 0):
            first = [0, *first]
        if self.config.strategy == "auto":
            first += self._not_later(candidates, room, first, tokens_W, budget)
        is_settled = len(candidates) <= room or len(first) >= room or self.config.strategy == "fcfs"
        if budget is None and is_settled:
            # there is nothing to choose, so that the window need not know of those who come and go meanwhile
            return list(dict.fromkeys([*first, *range(len(candidates))]))[:room]
        window = self._filled_window(candidates)
        picked = select(
            self.config.strategy,
            window,
            room,
            rng=self._rng,
            first=first,
            tokens_W=tokens_W,
            token_budget=budget,
            base_X=running_X() if callable(running_X) else running_X,
            options=self.config.options,
        )
        return [int(index) for index in picked]

    def _not_later(
        self,
        candidates: list[Waiting],
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

    def _devices(self, batch: list[Waiting]) -> list[int]:
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
        self, candidates: list[Waiting], most_tokens: int | None
    ) -> tuple[int | None, list[int] | None]:
        """The tokens of a batch, and those that each candidate counts for; None where there is no limit."""
        budget = self.config.token_budget
        if most_tokens is not None:
            budget = most_tokens if budget is None else min(budget, most_tokens)
            return budget, [min(waiting.tokens, budget) for waiting in candidates]
        return budget, None if budget is None else [waiting.tokens for waiting in candidates]

    @property
    def _num_in_window(self) -> int:
        return 0 if self._window is None else len(self._window)

    def _filled_window(self, candidates: list[Waiting]) -> Window:
        """The window of these oldest requests; loads of those that are new in it are predicted and checked now."""
        if late := candidates[self._num_in_window :]:
            for waiting in late:
                self._check_length(waiting.load_X)
            assert self._window is not None
            self._window.add([waiting.load_X for waiting in late])
        assert self._window is not None
        return self._window

    def _check_length(self, load_X: Floats) -> None:
        if self._window is None:
            self._window = self._new_window(len(load_X))
        if len(load_X) != self._window.length:
            raise ShapeError(
                f"a load vector has {len(load_X)} entries, those of the queue {self._window.length}"
            )

    def _new_window(self, length: int) -> Window:
        return Window(length, num_layers=self.config.num_layers)

    def _check_if_idle(self) -> None:
        if not self._queue:
            self.check_integrity()
