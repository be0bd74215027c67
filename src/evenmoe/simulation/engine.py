"""Engine: the SimPy side of a run that both kinds of batching share: clock, queue, arrivals, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import simpy

from evenmoe.errors import ConfigError
from evenmoe.scheduling import BatchScheduler, SchedulerConfig
from evenmoe.simulation.execution import Execution
from evenmoe.simulation.metrics import Ending, Meter
from evenmoe.simulation.request import Request

MS_PER_S = 1000.0

Process = Generator[simpy.Event, Any, None]
Submit = Callable[[BatchScheduler, Request], None]
"""Puts a request in the queue, with the load and the tokens that the kind of batching goes by."""

_REPORT_EVERY = 1024


class Engine:
    """One machine, one queue, one stream of requests, on one clock of seconds.

    max_waiting: the run stops when more requests wait. progress: told the number of finished requests now and then.
    """

    def __init__(
        self,
        requests: Iterator[Request],
        execution: Execution,
        config: SchedulerConfig,
        meter: Meter,
        *,
        max_waiting: int,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.execution, self.meter = execution, meter
        self.env = simpy.Environment()
        self.queue = BatchScheduler(replace(config, num_layers=execution.num_view_layers), clock=self._now_ms)
        self.arrivals_ended = False
        self.next_arrival_s = 0.0
        """When the next request comes; inf once there is none."""
        self._requests, self._max_waiting, self._progress = requests, max_waiting, progress
        self._stopped = self.env.event()
        self._error: Exception | None = None
        self._wake: simpy.Event | None = None
        self._wake_at = 0

    def run(self, server: Process, submit: Submit, max_seconds: float | None) -> Ending:
        """Run until all requests are finished or a limit is reached; say which. Errors of the processes are raised."""
        self.env.process(self._guarded(self._arrive(submit)))
        served = self.env.process(self._guarded(server))
        ends = [served, self._stopped]
        time_up = None if max_seconds is None else self.env.timeout(max_seconds)
        if time_up is not None:
            ends.append(time_up)
        self.env.run(until=self.env.any_of(ends))
        if self._error is not None:
            raise self._error
        if served.processed:
            return "all finished"
        return "max_waiting" if self._stopped.processed else "max_seconds"

    def arrival(self, at_least: int = 1) -> simpy.Event:
        """An event that happens when so many requests wait, or no more come."""
        self._wake, self._wake_at = self.env.event(), at_least
        return self._wake

    def report(self) -> None:
        """Tell the progress, if anybody listens."""
        if self._progress is not None and self.meter.num_finished % _REPORT_EVERY == 0:
            self._progress(self.meter.num_finished)

    def _guarded(self, process: Process) -> Process:
        """The process; an error in it ends the run. SimPy would raise another one, made of the error's message."""
        try:
            yield from process
        except Exception as error:
            self._error = error
            if not self._stopped.triggered:
                self._stopped.succeed()
            yield self.env.event()  # never happens: the run stops here

    def _arrive(self, submit: Submit) -> Process:
        env, meter = self.env, self.meter
        last_s = 0.0
        for request in self._requests:
            if request.arrived_s < last_s:
                raise ConfigError(
                    f"arrived_s of request {request.number}", request.arrived_s, f"at least {last_s}"
                )
            self.next_arrival_s = last_s = request.arrived_s
            if last_s > env.now:
                yield env.timeout(last_s - env.now)
            submit(self.queue, request)
            meter.arrived(request, env.now)
            if self._wake is not None and meter.num_waiting >= self._wake_at:
                self._woken()
            if meter.num_waiting > self._max_waiting:
                self._stopped.succeed()
                return
        self.arrivals_ended, self.next_arrival_s = True, math.inf
        if self._wake is not None:
            self._woken()

    def _woken(self) -> None:
        wake, self._wake = self._wake, None
        assert wake is not None
        wake.succeed()

    def _now_ms(self) -> float:
        return self.env.now * MS_PER_S
