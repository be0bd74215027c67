"""Slow, obvious versions of the simulated workloads: bursts one by one, tokens one by one, shares by bisection."""

from __future__ import annotations

import random


def bursty_times(
    rate: float, mean_requests: float, intensity: float, until_s: float, seed: int
) -> list[float]:
    """Times of arrivals: a pause, then a burst of a geometric number of requests, again and again."""
    rng = random.Random(seed)
    mean_gap = 1 / (rate * intensity)
    mean_pause = mean_requests / rate - (mean_requests - 1) * mean_gap
    times, clock = [], 0.0
    while clock < until_s:
        clock += rng.expovariate(1 / mean_pause)
        times.append(clock)
        while rng.random() > 1 / mean_requests:
            clock += rng.expovariate(1 / mean_gap)
            times.append(clock)
    return [time for time in times if time < until_s]


def capped_shares(weights: list[float], top_k: int) -> list[float]:
    """min(1, c * weight) with the c, found by bisection, for which they sum to `top_k`."""
    low, high = 0.0, top_k / min(weight for weight in weights if weight > 0)
    for _ in range(200):
        middle = (low + high) / 2
        if sum(min(1.0, middle * weight) for weight in weights) < top_k:
            low = middle
        else:
            high = middle
    return [min(1.0, high * weight) for weight in weights]


def sampled_counts(pairs: list[float], num_tokens: int, rng: random.Random) -> list[int]:
    """Experts chosen by `num_tokens` tokens, each of which has every expert with its probability and exactly K in all.

    One token: the experts in random order along a line, each as long as its probability, and a pointer at every
    whole number after a random offset: an expert that a pointer falls on is chosen.
    """
    counts = [0] * len(pairs)
    order = list(range(len(pairs)))
    for _ in range(num_tokens):
        rng.shuffle(order)
        position = rng.random()
        for expert in order:
            before = int(position)
            position += pairs[expert]
            counts[expert] += int(position) - before
    return counts


def spread(times: list[float]) -> list[float]:
    """Each time moved by its place among its equals towards the next later time."""
    moved = []
    for index, time in enumerate(times):
        later = [other for other in times if other > time]
        step = (min(later) - time) / times.count(time) if later else 0.0
        moved.append(time + times[:index].count(time) * step)
    return moved
