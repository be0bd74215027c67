"""Continuous: requests join and leave between iterations, as in vLLM and SGLang.

Shape letters: B running requests, P those of them that compute in an iteration, V entries of what the scheduler sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.scheduling import BatchScheduler, Scheduled, SchedulerConfig
from evenmoe.simulation.engine import Engine, Process, Submit
from evenmoe.simulation.execution import StepCost
from evenmoe.simulation.request import Floats, Request


@dataclass(frozen=True, kw_only=True)
class Continuous:
    """Iterations of prefill and decode mixed; requests are admitted from the queue between two of them.

    max_running: requests at once, at most; it stands for the memory of their caches too.
    token_budget: tokens of an iteration, at most. Every running request that decodes has one, then prefill takes what
        is left, the oldest admitted first.
    chunk_tokens: prompt tokens of one request in an iteration, at most; None: as many as the budget leaves.

    The scheduler picks who is admitted, with what runs already counted as taken: the load of this iteration is what is
    kept even. The oldest is not forced, as it would be the only choice wherever one place is free; `max_passed_over`
    bounds how long it waits. `max_batch_size`, `min_batch_trigger` and `scheduling_interval_ms` do not act: a free
    place is filled at once. Strategies that are an order, or that cut the window into batches, ignore what runs.
    Raises ConfigError.
    """

    max_running: int = 64
    token_budget: int = 2048
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ConfigError("max_running", self.max_running, "at least 1")
        if self.token_budget < self.max_running:
            raise ConfigError(
                "token_budget", self.token_budget, f"at least max_running, {self.max_running}: a token each"
            )
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise ConfigError("chunk_tokens", self.chunk_tokens, "at least 1, or None")

    @property
    def most_of_one(self) -> int:
        """Prompt tokens of one request in an iteration, at most."""
        return min(self.token_budget, self.chunk_tokens or self.token_budget)

    def settled(self, config: SchedulerConfig) -> int:
        """Unfinished requests that mean nothing: all places, and two windows."""
        return self.max_running + 2 * config.window_size

    def submitter(self, engine: Engine) -> Submit:
        """A request with the load, and the tokens, of its first iteration."""
        view, most = engine.execution.view, self.most_of_one

        def submit(queue: BatchScheduler, request: Request) -> None:
            tokens = min(request.prompt_tokens, most)
            load_V = view(request) * (tokens / request.tokens)
            queue.submit(request.number, load_V, tokens=tokens, payload=request)

        return submit

    def serve(self, engine: Engine) -> Process:
        """The machine."""
        env, meter = engine.env, engine.meter
        running: list[_Running] = []
        while True:
            tokens_B = self._planned(running)
            self._admit(engine, running, tokens_B)
            if not running:
                if engine.arrivals_ended:
                    return
                yield engine.arrival()
                continue
            # those that the budget left nothing for wait this iteration out
            part = [one for one, tokens in zip(running, tokens_B, strict=True) if tokens]
            tokens_P = np.array([tokens for tokens in tokens_B if tokens])
            cost = engine.execution.step([one.request for one in part], tokens_P)
            repeats = self._repeats(engine, running, cost.seconds)
            cost = _repeated(cost, repeats)
            yield env.timeout(cost.seconds)
            meter.ran(cost, env.now)
            for one, tokens in zip(part, tokens_P.tolist(), strict=True):
                one.advance(tokens * repeats, env.now)
                if not one.left:
                    meter.finished(one.request, one.passed_over, one.begun_s, one.first_token_s, env.now)
                    engine.report()
            running = [one for one in running if one.left]

    def _planned(self, running: list[_Running]) -> list[int]:
        """Tokens of each running request in the next iteration: decode first, then prefill by age of admission."""
        tokens_B = [0 if one.prompt_left else 1 for one in running]
        left = self.token_budget - sum(tokens_B)
        for number, one in enumerate(running):
            if one.prompt_left:
                tokens_B[number] = min(one.prompt_left, self.most_of_one, left)
                left -= tokens_B[number]
        return tokens_B

    def _admit(self, engine: Engine, running: list[_Running], tokens_B: list[int]) -> None:
        """Let requests join `running`, each with its tokens of the next iteration, the last with what is left."""
        view, left = engine.execution.view, self.token_budget - sum(tokens_B)
        while left and len(running) < self.max_running and engine.meter.num_waiting:
            room = self.max_running - len(running)
            load_V = np.array(tokens_B) @ np.array([one.load_V for one in running]) if running else None
            batch = engine.queue.next_batch(flush=True, room=room, most_tokens=left, running_X=load_V)
            assert batch is not None
            engine.meter.taken(len(batch), engine.env.now)
            running += [_Running(scheduled, view, engine.env.now) for scheduled in batch]
            tokens_B += [min(scheduled.tokens, left) for scheduled in batch]
            left = self.token_budget - sum(tokens_B)

    def _repeats(self, engine: Engine, running: list[_Running], seconds: float) -> int:
        """How many iterations in a row are this one: until a request is done, or one may join."""
        if any(one.prompt_left for one in running):
            return 1
        until_done = min(one.left for one in running)
        if len(running) >= self.max_running:
            return until_done
        if engine.meter.num_waiting:
            return 1
        until_next = (engine.next_arrival_s - engine.env.now) / seconds
        return until_done if until_next >= until_done else max(math.ceil(until_next), 1)


class _Running:
    """A request that was admitted, and how far it is."""

    __slots__ = ("begun_s", "first_token_s", "left", "load_V", "passed_over", "prompt_left", "request")

    def __init__(self, scheduled: Scheduled, view: Callable[[Request], Floats], now_s: float) -> None:
        self.request: Request = scheduled.payload
        self.passed_over, self.begun_s, self.first_token_s = scheduled.passed_over, now_s, 0.0
        self.left: int = self.request.tokens
        self.prompt_left: int = self.request.prompt_tokens
        self.load_V = view(self.request) / self.left
        """[V]: the predicted load of a token."""

    def advance(self, tokens: int, now_s: float) -> None:
        """So many tokens were computed; the last of the prompt gives the first of the output."""
        self.left -= tokens
        if self.prompt_left:
            self.prompt_left -= tokens
            if not self.prompt_left:
                self.first_token_s = now_s


def _repeated(cost: StepCost, times: int) -> StepCost:
    """The cost of several iterations in a row."""
    if times == 1:
        return cost
    return replace(
        cost,
        seconds=cost.seconds * times,
        pairs=cost.pairs * times,
        dropped_pairs=cost.dropped_pairs * times,
    )
