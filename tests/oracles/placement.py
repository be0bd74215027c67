"""Slow, obvious versions of what evenmoe.placement computes fast. Loops only."""

from itertools import product


def device_load(load_E, holders_E, num_devices):
    """Load of each device; an expert's load is shared evenly by its copies."""
    load_D = [0.0] * num_devices
    for load, holders in zip(load_E, holders_E, strict=True):
        for device in holders:
            load_D[device] += load / len(holders)
    return load_D


def straggler_factor(load_GE, holders_E, num_devices):
    """Mean over domains of busiest device over mean device."""
    factors = []
    for load_E in load_GE:
        load_D = device_load(load_E, holders_E, num_devices)
        factors.append(max(load_D) / (sum(load_D) / num_devices))
    return sum(factors) / len(factors)


def soft_peak(load_GE, holders_E, num_devices, power=16):
    """Mean over domains of the power mean over devices of load over even load."""
    peaks = []
    for load_E in load_GE:
        load_D = device_load(load_E, holders_E, num_devices)
        even = sum(load_D) / num_devices
        peaks.append((sum((load / even) ** power for load in load_D) / num_devices) ** (1 / power))
    return sum(peaks) / len(peaks)


def all_placements(num_experts, num_devices):
    """Every placement of single copies with as even a number per device as possible."""
    fewest = num_experts // num_devices
    most = -(-num_experts // num_devices)
    for devices in product(range(num_devices), repeat=num_experts):
        counts = [devices.count(device) for device in range(num_devices)]
        if fewest <= min(counts) and max(counts) <= most:
            yield [[device] for device in devices]


def best_factor(load_GE, num_devices):
    """The lowest straggler factor that any placement has."""
    return min(
        straggler_factor(load_GE, holders_E, num_devices)
        for holders_E in all_placements(len(load_GE[0]), num_devices)
    )


def copies_of_experts(load_E, replicas, num_devices):
    """Copies of each expert: again and again one more for the highest load per copy, the first of equals."""
    counts = [1] * len(load_E)
    for _ in range(replicas):
        allowed = [e for e in range(len(load_E)) if counts[e] < num_devices]
        hottest = max(allowed, key=lambda e: (load_E[e] / counts[e], -e))
        counts[hottest] += 1
    return counts
