"""RunMetrics: what a simulated run came to, and Meter, which takes it down while the run goes on.

A request leaves four numbers behind and a step none, so that a run of a million requests needs little memory.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from evenmoe.errors import ConfigError
from evenmoe.loads.metrics import drop_rate, ratio_of_sums
from evenmoe.simulation.execution import StepCost
from evenmoe.simulation.request import Floats, Request

Ending = Literal["all finished", "max_seconds", "max_waiting"]

OVERLOAD_SHARE = 0.05
"""A run in which more than this share of all requests is unfinished when the last arrives may be overloaded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunMetrics:
    """The result of one run. Times are in seconds; those of requests are over the counted ones, warm-up cut off.

    requests, finished: that arrived, and that finished, warm-up included.
    seconds: measured time, from the first counted arrival to the end of the run.
    latency: from arrival to the last token; ttft: to the first token; tpot: the time between tokens, of each request
        that has more than one; wait: from arrival to the batch. Percentiles are interpolated linearly.
    throughput: requests, and output tokens, that finished in the measured time, per second.
    imbalance: time that the machine computed over what the same work would have taken, had it been even.
    straggler_factor: peak over mean device load before dropping, averaged by load (`evenmoe.loads.straggler_factor`).
    utilisation: share of the measured time in which the machine runs; device_utilisation: mean over devices of the
        share in which they compute, not waiting for a slower one.
    queue_depth: requests that wait for a batch; the mean is over time.
    passed_over: batches that took a younger request first.
    drop_rate: share of (token, expert) pairs that the routing policy dropped; 0 without one.
    overloaded: more came than the machine can serve, see `Meter.is_overloaded`.
    ended: "all finished", or the limit that stopped the run.
    latency_s: [counted requests], in order of arrival; for distributions, not in `as_dict`.
    """

    requests: int
    finished: int
    seconds: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p90_s: float
    latency_p99_s: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p99_s: float
    wait_mean_s: float
    throughput_requests_s: float
    throughput_tokens_s: float
    imbalance: float
    straggler_factor: float
    utilisation: float
    device_utilisation: float
    queue_depth_mean: float
    queue_depth_max: int
    passed_over_mean: float
    passed_over_max: int
    drop_rate: float
    overloaded: bool
    ended: Ending
    latency_s: Floats = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Every field but the array, as plain data."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "latency_s"}


class Meter:
    """Takes a run down. num_warmup: how many of the first requests are not counted."""

    def __init__(self, num_warmup: int = 0) -> None:
        self._num_warmup = num_warmup
        self._begun_s = 0.0
        self.num_arrived = self.num_finished = self.num_waiting = 0
        self._unfinished = self._unfinished_before = self._unfinished_half = 0
        self._depth_since_s = self._depth_area = 0.0
        self._depth_max = 0
        self._finished_since = self._tokens_since = 0
        self._busy_s = self._device_busy_s = self._step_s = self._even_s = 0.0
        self._pairs = self._dropped_pairs = self._peak_pairs = 0.0
        self._number = array("q")
        self._times = array(
            "d"
        )  # wait, ttft, latency, tpot of each counted request; tpot NaN with a single token
        self._passed_over_sum = self._passed_over_max = 0

    def arrived(self, request: Request, now_s: float) -> None:
        """A request came and waits."""
        if request.number == self._num_warmup:
            self._begin(now_s)
        self._deepen(now_s, 1)
        self.num_arrived = number = self.num_arrived + 1
        self._unfinished = number - self.num_finished
        if number & (number - 1) == 0:
            self._unfinished_half, self._unfinished_before = self._unfinished_before, self._unfinished

    def taken(self, number: int, now_s: float) -> None:
        """So many left the queue for a batch."""
        self._deepen(now_s, -number)

    def ran(self, cost: StepCost, now_s: float) -> None:
        """A batch, or an iteration, has just ended."""
        since_s = max(min(cost.seconds, now_s - self._begun_s), 0.0)
        self._busy_s += since_s
        self._device_busy_s += since_s * cost.busy_share
        self._step_s += cost.seconds
        self._even_s += cost.seconds / cost.imbalance
        self._pairs += cost.pairs
        self._peak_pairs += cost.pairs * cost.straggler_factor
        self._dropped_pairs += cost.dropped_pairs

    def finished(
        self, request: Request, passed_over: int, begun_s: float, first_token_s: float, last_token_s: float
    ) -> None:
        """A request is done. Times of the run: when its batch took it, of its first token, and of its last."""
        self.num_finished += 1
        self._finished_since += 1
        self._tokens_since += request.output_tokens
        if request.number < self._num_warmup:
            return
        more = request.output_tokens - 1
        arrived_s = request.arrived_s
        self._number.append(request.number)
        self._times.extend(
            (
                begun_s - arrived_s,
                first_token_s - arrived_s,
                last_token_s - arrived_s,
                (last_token_s - first_token_s) / more if more else np.nan,
            )
        )
        self._passed_over_sum += passed_over
        self._passed_over_max = max(self._passed_over_max, passed_over)

    def is_overloaded(self, settled: int) -> bool:
        """Whether the machine fell behind, and further behind as the run went on.

        When the last request arrived, more were unfinished than OVERLOAD_SHARE of all, than `settled`, and than when
        half of them had come (at the last power of two up to half).
        """
        most = max(OVERLOAD_SHARE * self.num_arrived, settled, self._unfinished_half)
        return self._unfinished > most

    def result(self, now_s: float, ended: Ending, settled: int) -> RunMetrics:
        """The metrics of the run, which ends now. Raises ConfigError where no counted request finished."""
        if not self._number:
            raise ConfigError(
                "simulated time",
                now_s,
                f"long enough for a counted request: {self.num_arrived} arrived, {self.num_finished} finished, the "
                f"first {self._num_warmup} are warm-up",
            )
        self._deepen(now_s, 0)
        seconds = now_s - self._begun_s
        order = np.argsort(np.frombuffer(self._number, dtype=np.int64), kind="stable")
        latency_s = self._column(2)[order]
        tpot_s = self._column(3)
        return RunMetrics(
            requests=self.num_arrived,
            finished=self.num_finished,
            seconds=seconds,
            **_summary("latency", latency_s),
            **_summary("ttft", self._column(1)),
            **_summary("tpot", tpot_s[~np.isnan(tpot_s)]),
            wait_mean_s=float(self._column(0).mean()),
            throughput_requests_s=self._finished_since / seconds if seconds else 0.0,
            throughput_tokens_s=self._tokens_since / seconds if seconds else 0.0,
            imbalance=ratio_of_sums(self._step_s, self._even_s),
            straggler_factor=ratio_of_sums(self._peak_pairs, self._pairs),
            utilisation=self._busy_s / seconds if seconds else 0.0,
            device_utilisation=self._device_busy_s / seconds if seconds else 0.0,
            queue_depth_mean=self._depth_area / seconds if seconds else 0.0,
            queue_depth_max=self._depth_max,
            passed_over_mean=self._passed_over_sum / len(self._number),
            passed_over_max=self._passed_over_max,
            drop_rate=drop_rate(self._pairs, self._pairs - self._dropped_pairs),
            overloaded=ended == "max_waiting" or self.is_overloaded(settled),
            ended=ended,
            latency_s=latency_s,
        )

    def _column(self, index: int) -> Floats:
        """[N]: one of the four times of every counted request, as they finished; rounding does not make it negative."""
        return np.maximum(np.frombuffer(self._times)[index::4], 0.0)

    def _begin(self, now_s: float) -> None:
        """The warm-up is over: forget what was measured, but not who waits."""
        self._begun_s = self._depth_since_s = now_s
        self._depth_area, self._depth_max = 0.0, self.num_waiting
        self._finished_since = self._tokens_since = 0
        self._busy_s = self._device_busy_s = self._step_s = self._even_s = 0.0
        self._pairs = self._dropped_pairs = self._peak_pairs = 0.0

    def _deepen(self, now_s: float, change: int) -> None:
        self._depth_area += self.num_waiting * (now_s - self._depth_since_s)
        self._depth_since_s = now_s
        self.num_waiting = waiting = self.num_waiting + change
        if waiting > self._depth_max:
            self._depth_max = waiting


def _summary(name: str, seconds: Floats) -> dict[str, Any]:
    """Mean and percentiles by field; 0 where there is nothing to measure (no request has a second token)."""
    if not seconds.size:
        seconds = np.zeros(1)
    p50, p90, p99 = np.percentile(seconds, (50, 90, 99)).tolist()
    return {
        f"{name}_mean_s": float(seconds.mean()),
        f"{name}_p50_s": p50,
        f"{name}_p90_s": p90,
        f"{name}_p99_s": p99,
    }
