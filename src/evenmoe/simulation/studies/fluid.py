"""The fluid queue: what a rate above capacity does to latency, whatever the scheduler.

While requests come faster than they are served, the queue only grows. Of N requests the last comes after N / rate
seconds and is done after N / throughput, so that the run's tail is the difference, and a gain in throughput becomes a
gain in P99 that depends on the rate and grows with nothing but the run's length.
"""

from __future__ import annotations

from evenmoe.errors import ConfigError


def fluid_p99_s(requests: int, throughput_per_s: float, rate_per_s: float) -> float:
    """Seconds that the last of `requests` waits: N / throughput - N / rate, 0 where the rate is not above throughput.

    throughput_per_s: of a machine that is never idle. Raises ConfigError for numbers that are not above 0.
    """
    for name, value in (
        ("requests", requests),
        ("throughput_per_s", throughput_per_s),
        ("rate_per_s", rate_per_s),
    ):
        if not value > 0:
            raise ConfigError(name, value, "above 0")
    return max(requests / throughput_per_s - requests / rate_per_s, 0.0)


def fluid_gain(
    requests: int, fcfs_throughput_per_s: float, throughput_per_s: float, rate_per_s: float
) -> float | None:
    """The share of fcfs's fluid P99 that the other throughput takes away; None where fcfs keeps up."""
    fcfs_s = fluid_p99_s(requests, fcfs_throughput_per_s, rate_per_s)
    if fcfs_s == 0:
        return None
    return 1.0 - fluid_p99_s(requests, throughput_per_s, rate_per_s) / fcfs_s
