"""docs/placement.md, "Bursty traffic": batches whose requests share a topic, under each placement of a loads file.

Topics come in bursts of `--burst` requests on average. A batch of 8 is formed from a window of the 32 oldest
requests: `fcfs` takes them in order, `greedy` takes the oldest and then, one by one, the request that keeps the
busiest device's load lowest. A request's load is its topic's, each expert times exp(0.2 * z).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenmoe.loads import read_loads, straggler_factor
from evenmoe.placement.domain_loads import DomainLoads, scaled
from evenmoe.placement.methods import METHODS, FitSettings, fit_placement

Floats = NDArray[np.float64]
BATCH, WINDOW, REQUEST_NOISE = 8, 32, 0.2


def draw_requests(
    domains: DomainLoads, num_requests: int, burst: float, rng: np.random.Generator
) -> list[Floats]:
    """[L] of [N, E]: the load of each request in each layer, by bursts of one topic."""
    topic_N, starts_N = np.zeros(num_requests, dtype=int), rng.random(num_requests) < 1 / burst
    for index in range(num_requests):
        is_new = index == 0 or starts_N[index]
        topic_N[index] = rng.integers(len(domains.tags)) if is_new else topic_N[index - 1]
    return [
        scaled(
            load_GE[topic_N] * np.exp(REQUEST_NOISE * rng.standard_normal((num_requests, load_GE.shape[1])))
        )
        for load_GE in domains.load_LGE
    ]


def batches_of(load_NLD: Floats, schedule: str) -> Floats:
    """[batches, L, D]: the device load of each batch."""
    waiting, batches = list(range(len(load_NLD))), []
    while len(waiting) >= WINDOW:
        batch_LD = load_NLD[waiting.pop(0)].copy()
        for _ in range(BATCH - 1):
            window = waiting[: WINDOW - 1]
            peaks = (batch_LD + load_NLD[window]).max(-1).sum(-1)
            batch_LD += load_NLD[waiting.pop(0 if schedule == "fcfs" else int(peaks.argmin()))]
        batches.append(batch_LD)
    return np.array(batches)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--burst", type=float, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    domains = DomainLoads.of(read_loads(args.loads))
    load_LNE = draw_requests(domains, args.requests, args.burst, np.random.default_rng(args.seed))
    settings = FitSettings(num_devices=args.devices, replicas=args.devices, seed=args.seed)
    rows = []
    for method in METHODS:
        placement = fit_placement(domains, method, settings)
        load_NLD = np.stack([placement.device_load(load_NE, i) for i, load_NE in enumerate(load_LNE)], axis=1)
        row: dict[str, str | float] = {"method": method}
        row |= {schedule: straggler_factor(batches_of(load_NLD, schedule)) for schedule in ("fcfs", "greedy")}
        print(f"{method:18s} fcfs {row['fcfs']:.3f}  greedy {row['greedy']:.3f}", flush=True)
        rows.append(row)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        config = vars(args) | {"loads": str(args.loads), "json": str(args.json)}
        args.json.write_text(json.dumps({"config": config, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
