"""ExpertAwareScheduler: transformers' FIFO scheduler, with the waiting requests in the order of `serving.admission`.

What runs goes first, as there; limits, the cache and the prefixes that requests share are transformers'.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from transformers.generation.continuous_batching.requests import RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.scheduling_snapshot import SchedulingSnapshot
from evenmoe.serving.transformers.configuring import current
from evenmoe.serving.transformers.prefixes import Hashes, Prefixes

NAME = "evenmoe"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step computes: its tokens, and how many requests begin with it."""

    num_tokens: int
    num_new_requests: int


class ExpertAwareScheduler(FIFOScheduler):  # type: ignore[misc]
    """Made by transformers; takes its configuration from `configured`.

    A request that lost its cache to others goes before those that never ran. Where the policy isolates requests,
    prompts are not cut to fill a step: who is next waits until its prompt fits.
    Raises ConfigError where no configuration is in force, and as Admission.
    """

    def __init__(self, cache: Any, safety_margin: float | None, max_requests_per_batch: int) -> None:
        configured = current()
        self._configured = configured
        self._admission = configured.admission(cache.max_batch_tokens)
        self._whole_prompts = configured.config.routing.isolates_prompts
        self._prefixes = Prefixes(cache)
        self._hashes: dict[str, Hashes] = {}
        self._begun: set[str] = set()
        self._left: dict[str, int] = {}
        super().__init__(cache, safety_margin, max_requests_per_batch)
        if configured.scheduler is not None:
            configured.scheduler.reset()
        configured.scheduler = self

    def reset(self) -> None:
        """Forget all requests, as before a new generation loop."""
        super().reset()
        for key in (*self._hashes, *self._left):
            self._admission.finished(key)
        self._hashes.clear()
        self._begun.clear()
        self._left.clear()
        self._token_budget, self._decision_s = 0, 0.0
        self._step: Step | None = None
        self._snapshot: SchedulingSnapshot | None = None

    def add_waiting_request(self, state: Any) -> None:
        """Queue a request, also one that ran and has to wait again."""
        begin = time.perf_counter()
        key = state.request_id
        if key in self._left and _ran_before(state):
            self._admission.put_back(key, priority=self._left.pop(key))
        else:
            if key in self._left:  # a name used again
                self._forget(key)
            note = self._configured.note_of(key)
            self._hashes[key] = self._prefixes.hashes(state.initial_tokens)
            self._admission.submit(
                key,
                state.initial_tokens,
                priority=note.priority,
                load_X=note.load_X,
                cached_tokens=self._prefixes.cached_tokens(self._hashes[key]),
            )
        self._decision_s += time.perf_counter() - begin
        super().add_waiting_request(state)

    def finish_request(self, request_id: str) -> None:
        """A request is done, or its cache is given to others and it will wait again at once."""
        super().finish_request(request_id)
        self._left[request_id] = self._configured.note_of(request_id).priority

    def clear_cancelled_requests(self) -> Any:
        """Drop what was cancelled, waiting or running."""
        states = super().clear_cancelled_requests()
        for state in states:
            self._forget(state.request_id)
        return states

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        """Schedule the next step."""
        for key in tuple(self._left):
            self._forget(key)
        self._token_budget = token_budget
        waited = dict.fromkeys(self.waiting_requests)
        result = super().schedule_batch(token_budget, cache_budget)
        begin = time.perf_counter()
        joined = [key for key in waited if key not in self.waiting_requests]
        self._admission.admitted(joined)
        parts = [(future.state.request_id, future.query_length) for future in result[0] or ()]
        if parts:
            self._note_step(parts)
        self._decision_s += time.perf_counter() - begin
        if parts:
            self._admission.timed(self._decision_s)
            self._decision_s = 0.0
            self._snapshot = self._admission.snapshot(num_running=len(self.active_requests))
        return result

    def observe(self, snapshot: LoadsSnapshot) -> None:
        """Learn what was routed up to some step."""
        begin = time.perf_counter()
        self._admission.observe(snapshot)
        self._decision_s += time.perf_counter() - begin

    def taken_step(self) -> Step | None:
        """The step that was scheduled and whose forward has not been told of, once."""
        step, self._step = self._step, None
        return step

    def snapshot(self) -> SchedulingSnapshot:
        """What was done up to the last step, and who waits and runs now. May be called from any thread."""
        told = self._snapshot or self._admission.snapshot(num_running=0)
        return replace(told, num_waiting=len(self.waiting_requests), num_running=len(self.active_requests))

    def _get_waiting_candidates(self) -> list[Any]:
        begin = time.perf_counter()
        self._look_up_prefixes()
        running = list(self._running())
        left = self._token_budget - sum(tokens for _, tokens in running)
        ordered = [
            self.waiting_requests[key]
            for key in self._admission.order(
                room=self.max_requests_per_batch - len(self.active_requests),
                most_tokens=max(left, 0),
                running=lambda: running,
            )
        ]
        if self._whole_prompts:
            ordered = list(_whole(ordered, left, bool(running)))
        self._decision_s += time.perf_counter() - begin
        return ordered

    def _running(self) -> Iterator[tuple[str, int]]:
        """Who runs, and the tokens of each in the coming step."""
        left = self._token_budget
        for status in (RequestStatus.DECODING, RequestStatus.PREFILLING):
            for key, state in self.active_requests.items():
                if state.status == status:
                    tokens = 1 if status == RequestStatus.DECODING else len(state.remaining_prefill_tokens)
                    yield key, min(tokens, left)
                    left -= min(tokens, left)

    def _look_up_prefixes(self) -> None:
        """Tell what of the oldest prompts others have computed meanwhile."""
        scheduling = self._configured.config.scheduling
        if self.cache.use_prefix_sharing and scheduling.predictor != "none":
            for key in islice(self._admission, scheduling.window_size):
                self._admission.cached(key, self._prefixes.cached_tokens(self._hashes[str(key)]))

    def _note_step(self, parts: list[tuple[str, int]]) -> None:
        self._admission.handed_out(parts)
        begin_now = [key for key, _ in parts if key not in self._begun]
        self._begun.update(begin_now)
        self._step = Step(num_tokens=sum(tokens for _, tokens in parts), num_new_requests=len(begin_now))

    def _forget(self, key: str) -> None:
        self._admission.finished(key)
        self._configured.forget(key)
        self._hashes.pop(key, None)
        self._left.pop(key, None)
        self._begun.discard(key)


def _ran_before(state: Any) -> bool:
    """Whether a request that is queued has lost its cache: it waits with it, or begins again with what it generated."""
    return bool(state.is_cpu_offloaded or state._true_initial_tokens)


def _whole(ordered: list[Any], left: int, others_run: bool) -> Iterator[Any]:
    """The requests whose prompts fit whole into the tokens left, up to the first that does not."""
    for state in ordered:
        left -= len(state.remaining_prefill_tokens)
        if left < 0 and others_run:
            return
        yield state
        others_run = True


SCHEDULER_MAPPING[NAME] = ExpertAwareScheduler
