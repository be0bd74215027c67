"""Serving: a queue of real prompts in real time, batches picked by the batch scheduler and run by an engine.

Shape letters: B requests of a batch, T tokens of a prompt, L layers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evenmoe.errors import ConfigError
from evenmoe.live.clock import Clock
from evenmoe.live.engine import Engine, Loads
from evenmoe.live.prompts import Ids
from evenmoe.scheduling import BatchScheduler, Scheduled, SchedulerConfig
from evenmoe.simulation.execution import Execution
from evenmoe.simulation.request import Request


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveRequest:
    """A prompt that arrives at a time.

    request: as the simulator sees it; its load is the predicted one, since the true one is not known before it runs.
    ids_T: its tokens.
    """

    request: Request
    ids_T: Ids


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveBatch:
    """A batch that ran.

    numbers: of its requests, in the order of picking; passed_over: by request, batches that took a younger one.
    waiting: requests in the queue when it was picked, its own included. load_BLE: what each request truly asked for.
    """

    started_s: float
    finished_s: float
    numbers: tuple[int, ...]
    passed_over: tuple[int, ...]
    waiting: int
    load_BLE: Loads

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.finished_s - self.started_s


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveRun:
    """One strategy's service of one queue. interrupted: the batches are those until then."""

    strategy: str
    batches: tuple[LiveBatch, ...]
    interrupted: bool


def serve(
    requests: Sequence[LiveRequest],
    engine: Engine,
    execution: Execution,
    config: SchedulerConfig,
    new_clock: Callable[[], Clock],
    on_progress: Callable[[int], None] = lambda done: None,
) -> LiveRun:
    """Serve all requests as they arrive by the clock, made when all is ready; `on_progress` hears how many are done.

    One batch runs at a time. A request that arrives while one runs counts as queued from its own arrival on.
    `execution` says what the scheduler sees of a request, as in a simulation.
    Ctrl-C ends the run, and what was finished is returned. Raises ConfigError for arrivals out of order.
    """
    arrivals_s = [one.request.arrived_s for one in requests]
    if arrivals_s != sorted(arrivals_s):
        raise ConfigError("arrivals", "not sorted", "requests in order of arrival")
    queue = _Queue([one.request for one in requests], execution, config)
    batches: list[LiveBatch] = []
    interrupted, done = False, 0
    clock = new_clock()
    try:
        while (due_ms := queue.next_due_ms()) is not None:
            clock.sleep_until(due_ms / 1000)
            waiting, picked = queue.take(max(clock.now_s() * 1000, due_ms))
            if picked:
                batches.append(_run(requests, waiting, picked, engine, clock))
                done += len(picked)
                on_progress(done)
    except KeyboardInterrupt:
        interrupted = True
    return LiveRun(strategy=config.strategy, batches=tuple(batches), interrupted=interrupted)


class _Queue:
    """The scheduler, fed with what has arrived. Its clock stands at each request's arrival while that is queued."""

    def __init__(self, requests: Sequence[Request], execution: Execution, config: SchedulerConfig) -> None:
        self._requests = requests
        self._view_NV = [execution.view(request) for request in requests]  # not while somebody waits
        self._num_queued, self._now_ms = 0, 0.0
        layered = replace(config, num_layers=execution.num_view_layers)
        self._scheduler = BatchScheduler(layered, clock=lambda: self._now_ms)

    def next_due_ms(self) -> float | None:
        """When to look again: a batch is due, or a request arrives; None when all is done."""
        due_ms, arrives_ms = self._scheduler.due_ms(), self._next_arrival_ms()
        return min((ms for ms in (due_ms, arrives_ms) if ms is not None), default=None)

    def take(self, now_ms: float) -> tuple[int, list[Scheduled]]:
        """How many wait at this time, and the batch that is due, if any."""
        while (arrives_ms := self._next_arrival_ms()) is not None and arrives_ms <= now_ms:
            request = self._requests[self._num_queued]
            self._now_ms = arrives_ms
            self._scheduler.submit(request.number, self._view_NV[self._num_queued], tokens=request.tokens)
            self._num_queued += 1
        self._now_ms = now_ms
        waiting = len(self._scheduler)
        return waiting, self._scheduler.next_batch() or []

    def _next_arrival_ms(self) -> float | None:
        if self._num_queued == len(self._requests):
            return None
        return self._requests[self._num_queued].arrived_s * 1000


def _run(
    requests: Sequence[LiveRequest],
    waiting: int,
    picked: Sequence[Scheduled],
    engine: Engine,
    clock: Clock,
) -> LiveBatch:
    numbers = [int(str(scheduled.key)) for scheduled in picked]
    ids_B = [requests[number].ids_T for number in numbers]
    started_s = clock.now_s()
    load_BLE = engine.run(ids_B)
    return LiveBatch(
        started_s=started_s,
        finished_s=clock.now_s(),
        numbers=tuple(numbers),
        passed_over=tuple(scheduled.passed_over for scheduled in picked),
        waiting=waiting,
        load_BLE=load_BLE,
    )
