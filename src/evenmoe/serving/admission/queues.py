"""Queues: the waiting requests by priority, and who was put back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import replace

from numpy.typing import ArrayLike

from evenmoe.scheduling import BatchScheduler, Scheduled, SchedulerConfig
from evenmoe.scheduling.waiting import Load


class Queue:
    """The waiting requests of one priority: those put back, then a batch scheduler's."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.put_back: deque[Hashable] = deque()
        self.lane = BatchScheduler(config, clock=lambda: 0.0)

    def __len__(self) -> int:
        return len(self.put_back) + len(self.lane)

    def __iter__(self) -> Iterator[Hashable]:
        """Those put back, then the oldest first."""
        return iter((*self.put_back, *self.lane.oldest()))


class Queues:
    """One queue for each priority that waits, the best, which is the smallest number, first."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._queues: dict[int, Queue] = {}
        self._priority_of: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._priority_of)

    def __contains__(self, key: object) -> bool:
        return key in self._priority_of

    def __iter__(self) -> Iterator[Hashable]:
        """Everyone, in the order without a strategy."""
        return (key for queue in self.by_priority() for key in queue)

    def set_layers(self, num_layers: int, load_of: Callable[[Hashable], Load]) -> None:
        """Loads are known, of so many layers, from now on: before that nobody was compared."""
        self._config = replace(self._config, num_layers=num_layers)
        for queue in self._queues.values():
            waiting, queue.lane = queue.lane.oldest(), Queue(self._config).lane
            for key in waiting:
                queue.lane.submit(key, load_of(key))

    def by_priority(self) -> list[Queue]:
        """The queues, the best priority first."""
        return [self._queues[priority] for priority in sorted(self._queues)]

    def num_of(self, priority: int) -> int:
        """How many of this priority wait in order of arrival."""
        return len(self._queues[priority].lane) if priority in self._queues else 0

    def add(self, key: Hashable, priority: int, load: Load) -> None:
        """A request has come."""
        self._queue(priority).lane.submit(key, load)
        self._priority_of[key] = priority

    def revise(self, key: Hashable, load_V: ArrayLike) -> None:
        """A waiting request's load is another."""
        self._queues[self._priority_of[key]].lane.revise(key, load_V)

    def put_back(self, key: Hashable, priority: int) -> None:
        """A request goes before all others of its priority, whether it waited or ran."""
        self.remove(key)
        self._queue(priority).put_back.appendleft(key)
        self._priority_of[key] = priority

    def remove(self, key: Hashable) -> bool:
        """A request waits no more; False where it did not."""
        priority = self._priority_of.pop(key, None)
        if priority is None:
            return False
        queue = self._queues[priority]
        if not queue.lane.cancel(key):
            queue.put_back.remove(key)
        self._close(priority)
        return True

    def take(self, keys: Collection[Hashable]) -> list[Scheduled]:
        """These left together; of those that were never put back, how often others went before them."""
        taken: list[Scheduled] = []
        by_priority: dict[int, list[Hashable]] = {}
        for key in keys:
            by_priority.setdefault(self._priority_of.pop(key), []).append(key)
        for priority, members in by_priority.items():
            queue = self._queues[priority]
            for key in members:
                if key not in queue.lane:
                    queue.put_back.remove(key)
            taken += queue.lane.take([key for key in members if key in queue.lane])
            self._close(priority)
        return taken

    def check_integrity(self) -> None:
        """Raise AssertionError where a request was lost or doubled: a bug of ours."""
        waiting = list(self)
        if len(waiting) != len(self._priority_of) or set(waiting) != set(self._priority_of):
            raise AssertionError(
                f"{len(waiting)} requests in the queues, {len(self._priority_of)} known to wait"
            )
        for queue in self._queues.values():
            queue.lane.check_integrity()

    def _queue(self, priority: int) -> Queue:
        if priority not in self._queues:
            self._queues[priority] = Queue(self._config)
        return self._queues[priority]

    def _close(self, priority: int) -> None:
        """Forget an empty queue, unless it is the only one: there may be as many priorities as requests."""
        if not self._queues[priority] and len(self._queues) > 1:
            del self._queues[priority]
