"""Admission: which of the waiting requests joins an engine's next step.

Shape letters: T tokens of a prompt, X = layers * experts, V entries of what is seen of a load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.scheduling import SchedulerConfig
from evenmoe.serving.admission.loads import RequestLoads
from evenmoe.serving.admission.queues import Queue, Queues
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.admission.statistics import PASSED_OVER_BOUNDS, SECONDS_BOUNDS, Counting
from evenmoe.serving.config import RoutingConfig, SchedulingConfig
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot

Key: TypeAlias = Hashable
Running: TypeAlias = Callable[[], Iterable[tuple[Key, int]]]
"""Says who runs in the coming step, and with how many tokens; asked only where there is a choice to make."""

logger = logging.getLogger(__name__)


class Admission:
    """The waiting requests of an engine, and the order in which they are to be tried.

    config: strategy, predictor and bounds. routing: over how many devices the experts' loads must be even.
    shape: of the model; None: that of the token prior, else of the first LoadsSnapshot, before which requests go in
        order of arrival.
    most_of_one: prompt tokens of one request in one step, at most.

    Requests of the best waiting priority, the smallest number, go first; among them those that were put back, then the
    others as the strategy says, beside what runs already. Not thread-safe: engines schedule in one thread.
    Raises FileNotFoundError, FileFormatError, ShapeError and ConfigError for a prior or a placement that does not fit.
    """

    def __init__(
        self,
        config: SchedulingConfig,
        *,
        routing: RoutingConfig | None = None,
        shape: Shape | None = None,
        most_of_one: int,
    ) -> None:
        if most_of_one < 1:
            raise ConfigError("most_of_one", most_of_one, "at least 1")
        self.config, self.most_of_one = config, most_of_one
        self._loads = RequestLoads(config, routing or RoutingConfig(), shape, most_of_one)
        self._queues = Queues(_scheduler_config(config, self._loads.num_layers))
        self._num_admitted = 0
        self._passed_over, self._seconds = Counting(PASSED_OVER_BOUNDS), Counting(SECONDS_BOUNDS)

    @property
    def chooses(self) -> bool:
        """Whether the strategy has anything to choose by; otherwise those who wait go in the order of iteration."""
        return self.config.strategy != "fcfs" and self._loads.can_predict

    @property
    def shape(self) -> Shape | None:
        """Of the model, where loads are predicted."""
        return None if self._loads.predictions is None else self._loads.predictions.shape

    def tokens(self, key: Key) -> int:
        """Tokens that a waiting request would have in its first step."""
        return self._loads.tokens(key)

    def candidates(self) -> list[Key]:
        """Among whom of the best priority the next choice is made, the oldest first."""
        queues = self._queues.by_priority()
        return queues[0].lane.oldest(self.config.window_size) if queues else []

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queues)

    def __contains__(self, key: object) -> bool:
        """Whether this request waits."""
        return key in self._queues

    def __iter__(self) -> Iterator[Key]:
        """Those that wait: by priority, those put back before the others, the oldest first."""
        return iter(self._queues)

    def submit(
        self,
        key: Key,
        ids_T: Sequence[int] | NDArray[np.integer] | None,
        *,
        num_tokens: int | None = None,
        priority: int = 0,
        cached_tokens: int = 0,
        load_X: NDArray[np.float32] | None = None,
    ) -> None:
        """A request has come.

        ids_T: its prompt; None where it is not made of tokens, with `num_tokens` for how long it is.
        cached_tokens: how many of them are in the prefix cache, so that no expert runs for them.
        load_X: what its client says of it, as `client_load` checks it.
        Raises ConfigError for a name that a request has which is not finished.
        """
        if key in self._loads:
            raise ConfigError("key", key, "a name that no unfinished request has")
        length = num_tokens if num_tokens is not None else 0 if ids_T is None else len(ids_T)
        self._loads.add(key, ids_T, length, cached_tokens, load_X)
        # who is in the window at once is looked at in the next step; of the others most are not soon
        is_soon = self.chooses and self._queues.num_of(priority) < self.config.window_size
        load = partial(self._loads.first_step, key)
        self._queues.add(key, priority, load() if is_soon else load)

    def cached(self, key: Key, cached_tokens: int) -> None:
        """So many tokens of a waiting request's prompt are in the prefix cache now."""
        if key in self._queues and self._loads.cached(key, cached_tokens) and self.chooses:
            self._queues.revise(key, self._loads.first_step(key))

    def order(self, *, room: int, most_tokens: int, running: Running | None) -> Iterator[Key]:
        """Whom to try, one after the other; whom it gave is taken to join. Changes nothing, is computed as it is read.

        room: requests that may join. most_tokens: tokens that the step has left; a prompt that has more can be cut.
        running: None where nobody runs; then the oldest goes first, as in a batch of its own.
        Once either is used up, the rest follows in order of arrival.
        """
        joined: list[tuple[Key, int]] = []
        left = most_tokens
        for queue in self._queues.by_priority():
            for key in self._order_of(queue, room - len(joined), left, running, tuple(joined)):
                yield key
                tokens = self._loads.tokens(key)
                joined.append((key, tokens))
                left -= tokens

    def admitted(self, keys: Collection[Key]) -> None:
        """These joined the step that is about to run: once a step, as one who waits is passed over once a step."""
        waited = [key for key in keys if key in self._queues]
        if not waited:
            return
        passed_over = [scheduled.passed_over for scheduled in self._queues.take(waited)]
        for times in passed_over + [0] * (len(waited) - len(passed_over)):
            self._passed_over.add(times)
        self._num_admitted += len(waited)

    def put_back(self, key: Key, *, priority: int = 0) -> None:
        """A request that ran, or was tried in vain, waits again: now it is before all others of its priority."""
        self._loads.waits_again(key)
        self._queues.put_back(key, priority)

    def cancel(self, key: Key) -> bool:
        """A waiting request is gone; False where it did not wait."""
        if not self._queues.remove(key):
            return False
        self.finished(key)
        return True

    def finished(self, key: Key) -> None:
        """A request is done, or gone, wherever it is. Where it was the last, checks that nothing was lost."""
        self._queues.remove(key)
        self._loads.drop(key)
        if not self._loads:
            self.check_integrity()

    def check_integrity(self) -> None:
        """Raise AssertionError where a request was lost or doubled: a bug of ours. Runs whenever nothing is left."""
        self._queues.check_integrity()
        unknown = [key for key in self._queues if key not in self._loads]
        if unknown:
            raise AssertionError(f"{len(unknown)} requests wait that have finished")

    def handed_out(self, parts: Iterable[tuple[Key, int]]) -> None:
        """A step is about to run with these requests, and so many tokens of each: once for every step."""
        self._loads.handed_out(parts)

    def observe(self, snapshot: LoadsSnapshot) -> None:
        """Learn what was routed up to some step. Raises ConfigError where a prior is for another model."""
        could_predict = self._loads.can_predict
        self._loads.observe(snapshot)
        if self._loads.can_predict and not could_predict:
            self._queues.set_layers(self._loads.num_layers, lambda key: partial(self._loads.first_step, key))

    def timed(self, seconds: float) -> None:
        """A step's decision took so long, all of it."""
        self._seconds.add(seconds)

    def snapshot(self, *, num_running: int) -> SchedulingSnapshot:
        """What was done up to now."""
        predictions = self._loads.predictions
        return SchedulingSnapshot(
            strategy=self.config.strategy,
            num_waiting=len(self),
            num_running=num_running,
            num_admitted=self._num_admitted,
            passed_over=self._passed_over.histogram(),
            scheduling_s=self._seconds.histogram(),
            prediction_error={} if predictions is None else predictions.error,
            num_feedback=0 if predictions is None else predictions.num_feedback,
            num_unaligned=0 if predictions is None else predictions.num_unaligned,
        )

    def _order_of(
        self,
        queue: Queue,
        room: int,
        most_tokens: int,
        running: Running | None,
        joined: Sequence[tuple[Key, int]],
    ) -> Iterator[Key]:
        """One priority's part of the order, after others joined."""
        before = list(joined)
        for key in tuple(queue.put_back):
            yield key
            before.append((key, self._loads.tokens(key)))
        room -= len(queue.put_back)
        most_tokens -= sum(tokens for _, tokens in before[len(joined) :])
        taken: dict[Key, None] = {}
        while self.chooses and len(taken) < room and most_tokens > 0:
            planned = queue.lane.plan(
                room=self._likely_room(queue, room - len(taken), most_tokens, taken),
                running_X=(lambda: self._beside(running, before)) if running or before else None,
                taken=taken,
            )
            if not planned:
                break
            for key in planned:
                yield key
                taken[key] = None
                most_tokens -= self._loads.tokens(key)
        for key in queue.lane.oldest():
            if key not in taken:
                yield key

    def _beside(self, running: Running | None, before: Iterable[tuple[Key, int]]) -> NDArray[np.float64]:
        """[V]: the load of who runs, and of who joined before this priority."""
        return self._loads.running(chain(running() if running else (), before))

    def _likely_room(self, queue: Queue, room: int, most_tokens: int, taken: Collection[Key]) -> int:
        """How many may join at once: as many as of the oldest fit into the tokens, the last one cut."""
        number = 0
        for key in queue.lane.oldest(self.config.window_size + len(taken)):
            if number == room or most_tokens <= 0:
                break
            if key not in taken:
                most_tokens -= self._loads.tokens(key)
                number += 1
        return max(number, 1)


def _scheduler_config(config: SchedulingConfig, num_layers: int) -> SchedulerConfig:
    """The batch scheduler's settings; its times and its batch size mean nothing where requests join as they can."""
    default = SchedulerConfig()
    return SchedulerConfig(
        max_batch_size=min(default.max_batch_size, config.window_size),
        window_size=config.window_size,
        max_passed_over=config.max_passed_over,
        strategy=config.strategy,
        num_layers=num_layers,
        seed=config.seed,
        options=config.strategy_options(),
    )
