"""LoadsPublisher: when a process that routes may tell others what it counted.

Which experts a request used nearly reveals its text, so nothing is told of fewer than N requests: counts go out whole,
and only once the requests that began since the last time are at least N. What is not told waits; it is not told at the
end either.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from evenmoe.loads import ExpertLoads
from evenmoe.placement import Placement
from evenmoe.serving.config import MetricsConfig
from evenmoe.serving.observation.loads_snapshot import DeviceShares, LoadsSnapshot

logger = logging.getLogger(__name__)


class LoadsPublisher:
    """Writes a LoadsSnapshot at the end of a step where that is due, of one recorder's counts since the start.

    config: how many requests and seconds at least lie between two snapshots. Whether `/metrics` shows them
    (`enabled`) is another matter: the engine's scheduler learns from them too.
    write: takes a snapshot; an OSError of it is logged and the counts wait for the next time.
    clock: seconds that never go back.
    """

    def __init__(
        self,
        config: MetricsConfig,
        placement: Placement,
        write: Callable[[LoadsSnapshot], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._write, self._clock = config, write, clock
        self._shares = DeviceShares(placement)
        self._num_steps = self._num_tokens = self._num_requests = 0
        self._told_requests = 0
        self._told_at = float("-inf")

    def start(self, loads: ExpertLoads) -> None:
        """Tell the layers and experts, before any step. `loads` must be all zero: nothing may be counted yet."""
        assert not self._num_steps
        assert not loads.total.before_LE.any()
        self._tell(loads)
        self._told_at = float("-inf")

    def step_done(self, loads: Callable[[], ExpertLoads], *, num_tokens: int, num_new_requests: int) -> bool:
        """A step has been routed; return whether a snapshot went out.

        loads: gives everything counted up to and with this step; called only where a snapshot is due.
        num_tokens: real tokens of the step. num_new_requests: requests that began in it, or fewer: never more.
        """
        self._num_steps += 1
        self._num_tokens += num_tokens
        self._num_requests += num_new_requests
        return self._is_due() and self._tell(loads())

    def _is_due(self) -> bool:
        enough = self._num_requests - self._told_requests >= self._config.least_requests
        return enough and self._clock() - self._told_at >= self._config.interval_s

    def _tell(self, loads: ExpertLoads) -> bool:
        snapshot = LoadsSnapshot.of(
            loads,
            self._shares,
            num_steps=self._num_steps,
            num_tokens=self._num_tokens,
            num_requests=self._num_requests,
        )
        self._told_at = self._clock()
        try:
            self._write(snapshot)
        except OSError as error:
            logger.warning("loads could not be told: %s", error)
            return False
        self._told_requests = self._num_requests
        return True
