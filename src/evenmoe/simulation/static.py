"""Static: batches that run from their start to the end of their last request, one after the other, as in CAPS."""

from __future__ import annotations

from dataclasses import dataclass

from evenmoe.scheduling import BatchScheduler, SchedulerConfig
from evenmoe.simulation.engine import MS_PER_S, Engine, Process, Submit
from evenmoe.simulation.request import Request


@dataclass(frozen=True, kw_only=True)
class Static:
    """One machine, one batch at a time.

    While idle, the machine takes a batch as soon as the scheduler says that one is due: `min_batch_trigger` requests
    wait, or the oldest has waited `scheduling_interval_ms`. A request sees its tokens as they come.
    """

    def settled(self, config: SchedulerConfig) -> int:
        """Unfinished requests that mean nothing: two windows."""
        return 2 * max(config.window_size, config.min_batch_trigger)

    def serve(self, engine: Engine) -> Process:
        """The machine."""
        env, queue, meter = engine.env, engine.queue, engine.meter
        while True:
            due_ms = queue.due_ms()
            if due_ms is None:
                if engine.arrivals_ended:
                    return
                yield engine.arrival()
                continue
            if due_ms > env.now * MS_PER_S:
                interval = env.timeout(max(due_ms / MS_PER_S - env.now, 0.0))
                more = engine.arrival(queue.config.min_batch_trigger)
                yield interval if engine.arrivals_ended else interval | more
                if not interval.processed:
                    continue
            batch = queue.next_batch(flush=True)
            assert batch is not None
            begun_s = env.now
            meter.taken(len(batch), begun_s)
            requests = [scheduled.payload for scheduled in batch]
            cost, first_B, last_B = engine.execution.batch(requests)
            yield env.timeout(cost.seconds)
            meter.ran(cost, env.now)
            for scheduled, first_s, last_s in zip(batch, first_B.tolist(), last_B.tolist(), strict=True):
                request: Request = scheduled.payload
                meter.finished(request, scheduled.passed_over, begun_s, begun_s + first_s, begun_s + last_s)
                engine.report()

    def submitter(self, engine: Engine) -> Submit:
        """A request with the load of all its tokens."""
        view = engine.execution.view

        def submit(queue: BatchScheduler, request: Request) -> None:
            queue.submit(request.number, view(request), tokens=request.tokens, payload=request)

        return submit
