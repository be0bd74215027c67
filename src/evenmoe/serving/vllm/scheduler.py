"""ExpertAwareScheduler: vLLM's scheduler, whose waiting requests are tried in the order of an Admission."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from evenmoe.errors import ConfigError
from evenmoe.serving.admission import Admission, client_load
from evenmoe.serving.admission.client_loads import FIELD
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.observation.loads_file import LatestLoads
from evenmoe.serving.observation.scheduling_file import write_scheduling_snapshot
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm.queue import AdmissionQueue
from evenmoe.serving.vllm.scheduling_checks import check_loads_are_checked
from evenmoe.serving.vllm.settings import KEY, settings_of

LOOK_EVERY_S = 0.05
"""How often the worker's loads are looked for, at most: they are then a few steps old."""

CACHE_LOOKUPS = 4
"""Waiting requests whose prefix cache hits are looked up anew in each step."""

logger = logging.getLogger(__name__)


class ExpertAwareScheduler(Scheduler):  # type: ignore[misc]
    """For `--scheduler-cls evenmoe.serving.vllm.ExpertAwareScheduler`; what it does, `additional_config` says.

    Only the order in which waiting requests are tried is ours: whether one fits, how its prompt is cut and who is
    preempted is decided by vLLM. Where the engine schedules asynchronously, the instance is an AsyncScheduler too.
    Raises ConfigError where evenmoe is not configured, or a setting of it cannot act.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> ExpertAwareScheduler:
        """Make the kind that the engine's configuration asks for."""
        config = kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
        is_async = bool(config.scheduler_config.async_scheduling)
        kind = AsyncExpertAwareScheduler if cls is ExpertAwareScheduler and is_async else cls
        made: ExpertAwareScheduler = super().__new__(kind)
        return made

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(vllm_config, *args, **kwargs)
        settings = settings_of(vllm_config)
        if settings is None:
            raise ConfigError(
                "scheduler_cls",
                type(self).__name__,
                f"used with --additional-config '{{\"{KEY}\": {{...}}}}', which says what it is to do",
            )
        self.settings: ServingConfig = settings
        spool = Spool.inherited()
        self._spool = spool if settings.metrics.enabled else None
        self._latest_loads = None if spool is None else LatestLoads(spool)
        self._next_look_s = self._next_report_s = 0.0
        self._told_idle = True
        self._lookup = 0
        self.num_ignored_loads = 0
        """Loads of clients that were none, or that nothing was to use."""
        self.admission = self._new_admission()
        self.waiting = AdmissionQueue(
            self.admission, submit=self._submit, order=self._order, priority_of=self._priority_of
        )

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Decide on a step as vLLM does, but for the order in which those who wait are tried."""
        start = time.perf_counter()
        self._look_at_loads()
        self._look_up_cached()
        self.waiting.begin_step()
        ours = time.perf_counter() - start
        output = super().schedule(throttle_prefills)
        start = time.perf_counter()
        self.waiting.end_step()
        self.admission.handed_out(output.num_scheduled_tokens.items())
        self.admission.timed(ours + self.waiting.spent() + time.perf_counter() - start)
        self._told_idle = False
        self._report()
        return output

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Take in what a step gave."""
        outputs = super().update_from_output(*args, **kwargs)
        self._report_if_idle()
        return outputs

    def finish_requests(self, *args: Any, **kwargs: Any) -> Any:
        """Requests are done or gone by someone else's word."""
        finished = super().finish_requests(*args, **kwargs)
        self._report_if_idle()
        return finished

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        freed = super()._free_request(request, *args, **kwargs)
        self.admission.finished(request.request_id)
        return freed

    def _new_admission(self) -> Admission:
        config, scheduling = self.settings, self.settings.scheduling
        check_loads_are_checked(self.vllm_config.model_config.logits_processors, scheduling)
        most = self.max_num_scheduled_tokens
        threshold = self.scheduler_config.long_prefill_token_threshold
        admission = Admission(
            scheduling, routing=config.routing, most_of_one=min(most, threshold) if threshold > 0 else most
        )
        if self._latest_loads is not None and (snapshot := self._latest_loads()) is not None:
            admission.observe(snapshot)
        if scheduling.predictor == "none" and scheduling.strategy == "auto":
            logger.info("evenmoe.scheduling.predictor is none: requests are admitted in order of arrival")
        return admission

    def _submit(self, request: Request) -> None:
        """Tell the admission of a request."""
        key = request.request_id
        self.admission.finished(key)  # a streaming session that held no KV blocks comes again
        self.admission.submit(
            key,
            request.prompt_token_ids,
            num_tokens=request.num_prompt_tokens,
            priority=self._priority_of(request),
            cached_tokens=self._cached_tokens(request),
            load_X=self._client_load(request),
        )

    def _client_load(self, request: Request) -> Any:
        """The request's own load, checked again: whatever reaches this process must not stop it."""
        arguments = None if request.sampling_params is None else request.sampling_params.extra_args
        if not arguments or FIELD not in arguments:
            return None
        shape = self.admission.shape
        if self.settings.scheduling.predictor != "client" or shape is None:
            self._ignore_load(
                "evenmoe.scheduling.predictor is not client, or the model's shape is not known yet"
            )
            return None
        try:
            return client_load(arguments, shape.num_entries)
        except ConfigError as error:
            self._ignore_load(str(error))
            return None

    def _ignore_load(self, reason: str) -> None:
        self.num_ignored_loads += 1
        if self.num_ignored_loads == 1:
            logger.warning("a request's %s is ignored, as all of this kind will be: %s", FIELD, reason)

    def _priority_of(self, request: Request) -> int:
        return int(request.priority) if self.policy == SchedulingPolicy.PRIORITY else 0

    def _order(self) -> Iterator[Any]:
        """Whom to try in the step that is being decided, beside those who have their place in it."""
        if not self.admission.chooses:
            return iter(self.admission)
        parts = [(request.request_id, self._tokens_of(request)) for request in self.running]
        left = self.max_num_scheduled_tokens - sum(tokens for _, tokens in parts)
        room = self.max_num_active_reqs - len(parts) - self.num_waiting_for_streaming_input
        return self.admission.order(room=room, most_tokens=left, running=(lambda: parts) if parts else None)

    def _tokens_of(self, request: Request) -> int:
        """Tokens of a running request in the step; an estimate where a budget cuts it shorter."""
        pending = request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens
        return min(pending, self.admission.most_of_one) if pending > 1 else 1

    def _cached_tokens(self, request: Request) -> int:
        """Tokens of its prompt that are in the prefix cache now. Changes nothing."""
        manager = self.kv_cache_manager
        if not (
            self.admission.chooses and request.block_hashes and manager.prefix_cache_lookup_enabled(request)
        ):
            return 0
        hit = manager.coordinator.find_longest_cache_hit(request.block_hashes, request.num_tokens - 1)
        return int(hit[1])

    def _look_up_cached(self) -> None:
        """Look a few of those up anew, in turn, among whom the next choice is made."""
        if not (self.admission.chooses and self.cache_config.enable_prefix_caching):
            return
        keys = self.admission.candidates()
        for place in range(min(CACHE_LOOKUPS, len(keys))):
            key = keys[(self._lookup + place) % len(keys)]
            self.admission.cached(key, self._cached_tokens(self.requests[key]))
        self._lookup += CACHE_LOOKUPS

    def _look_at_loads(self) -> None:
        now_s = time.monotonic()
        if self._latest_loads is None or now_s < self._next_look_s:
            return
        self._next_look_s = now_s + LOOK_EVERY_S
        snapshot = self._latest_loads()
        if snapshot is not None:
            self.admission.observe(snapshot)

    def _report_if_idle(self) -> None:
        """No step follows that would."""
        if not (self.requests or self._told_idle):
            self._told_idle = True
            self._report(at_once=True)

    def _report(self, *, at_once: bool = False) -> None:
        now_s = time.monotonic()
        if self._spool is None or not (at_once or now_s >= self._next_report_s):
            return
        self._next_report_s = now_s + self.settings.metrics.interval_s
        try:
            write_scheduling_snapshot(self.admission.snapshot(num_running=len(self.running)), self._spool)
        except OSError as error:
            logger.warning("metrics of scheduling end here: %s", error)
            self._spool = None


class AsyncExpertAwareScheduler(ExpertAwareScheduler, AsyncScheduler):  # type: ignore[misc]
    """The same in an engine that decides on a step while the one before it still runs."""
