"""docs/scheduling.md, "On real loads", "Planning ahead" and "How near to the best": straggler factors, and bounds.

Requests come in bursts of one topic, `--burst` of them on average; a request's load is its topic's in each layer, each
expert times exp(noise * z), z standard normal, and every request has as many tokens. Batches of 8
leave a window that is always full.
`--plan` also plans every window into batches at once, which all run before the next window is looked at.
`--optimum N` also compares N windows, of few requests, with the best batch of all that hold the oldest.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenmoe.loads import read_loads, straggler_factor
from evenmoe.placement.domain_loads import DomainLoads, scaled
from evenmoe.scheduling import STRATEGIES, Window, select

Floats = NDArray[np.float64]
BATCH = 8


def draw_requests(
    domains: DomainLoads,
    devices: int,
    number: int,
    burst: float,
    rng: np.random.Generator,
    noise: float = 0.2,
) -> Floats:
    """[N, L, D]: device loads under a contiguous placement, each layer of mean 1 per expert."""
    starts_N = rng.random(number) < 1 / burst
    starts_N[0] = True
    last_N = np.maximum.accumulate(np.where(starts_N, np.arange(number), 0))
    topic_N = rng.integers(len(domains.tags), size=number)[last_N]
    layers = []
    for load_GE in domains.load_LGE:
        noise_NE = np.exp(noise * rng.standard_normal((number, load_GE.shape[1])))
        load_NE = scaled(load_GE[topic_N] * noise_NE)
        layers.append(load_NE.reshape(number, devices, -1).sum(-1))
    return np.stack(layers, axis=1)


def rolling(load_NLD: Floats, strategy: str, window_size: int, seed: int) -> float:
    """The straggler factor over all batches that leave a full window."""
    rng = np.random.default_rng(seed)
    flat_NX = load_NLD.reshape(len(load_NLD), -1)
    window = Window(flat_NX.shape[1], num_layers=load_NLD.shape[1])
    window.add(flat_NX[:window_size])
    batches = []
    for start in range(window_size, len(flat_NX) - BATCH, BATCH):
        picked = select(strategy, window, BATCH, rng=rng)
        batches.append(window.loads(picked).sum(0))
        window.remove(picked)
        window.add(flat_NX[start : start + BATCH])
    return straggler_factor(np.array(batches))


def planned(load_NLD: Floats, window_size: int) -> float:
    """The straggler factor where whole windows are planned: dealt in turn, then the best exchanges of all, while any
    lowers the sum of the batches' peaks."""
    peaks, means = 0.0, 0.0
    for start in range(0, len(load_NLD) - window_size + 1, window_size):
        load_WLD = load_NLD[start : start + window_size]
        num_batches = window_size // BATCH
        batch_W = np.arange(window_size) % num_batches
        load_MLD = np.stack([load_WLD[batch_W == batch].sum(0) for batch in range(num_batches)])
        one_P, other_P = np.triu_indices(window_size, 1)
        while True:
            peak_M = load_MLD.max(-1).sum(-1)
            a_P, b_P = batch_W[one_P], batch_W[other_P]
            moved_PLD = load_WLD[other_P] - load_WLD[one_P]
            after_P = (load_MLD[a_P] + moved_PLD).max(-1).sum(-1) + (load_MLD[b_P] - moved_PLD).max(-1).sum(
                -1
            )
            gain_P = np.where(a_P == b_P, 0.0, peak_M[a_P] + peak_M[b_P] - after_P)
            best = int(gain_P.argmax())
            if gain_P[best] <= 1e-9 * peak_M.sum():
                break
            load_MLD[a_P[best]] += moved_PLD[best]
            load_MLD[b_P[best]] -= moved_PLD[best]
            batch_W[one_P[best]], batch_W[other_P[best]] = b_P[best], a_P[best]
        peaks += float(load_MLD.max(-1).sum())
        means += float(load_MLD.mean(-1).sum())
    return peaks / means


def optimum_gap(load_NLD: Floats, window_size: int, number: int, seed: int) -> dict[str, float]:
    """Mean straggler factor of one batch from each of `number` windows, by strategy, and of the best batch."""
    rng = np.random.default_rng(seed)
    others = np.array(list(combinations(range(1, window_size), BATCH - 1)))
    is_in = np.zeros((len(others), window_size))
    is_in[np.arange(len(others))[:, None], others] = 1
    is_in[:, 0] = 1
    factors: dict[str, list[float]] = {}
    for start in rng.integers(len(load_NLD) - window_size, size=number):
        load_WLD = load_NLD[start : start + window_size]
        mean = load_WLD[:BATCH].sum(0).mean(-1).sum()
        flat_WX = load_WLD.reshape(window_size, -1)
        peaks = (is_in @ flat_WX).reshape(len(others), *load_WLD.shape[1:]).max(-1).sum(-1)
        factors.setdefault("best of all", []).append(float(peaks.min() / mean))
        for strategy in STRATEGIES:
            picked = select(strategy, flat_WX, BATCH, rng=rng, num_layers=load_WLD.shape[1])
            peak = load_WLD[picked].sum(0).max(-1).sum()
            factors.setdefault(strategy, []).append(float(peak / mean))
    return {name: float(np.mean(values)) for name, values in factors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=Path, required=True)
    parser.add_argument("--devices", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--burst", type=float, default=32)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--optimum", type=int, default=0)
    parser.add_argument("--optimum-window", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    domains = DomainLoads.of(read_loads(args.loads))
    rows = []
    for devices in args.devices:
        traffic = [
            draw_requests(
                domains, devices, args.requests, args.burst, np.random.default_rng(seed), args.noise
            )
            for seed in args.seeds
        ]
        floor = float(np.mean([straggler_factor(load_NLD.sum(0)) for load_NLD in traffic]))
        for window in args.windows:
            print(
                f"{devices} devices, window {window}: no schedule of all these requests is under {floor:.3f}"
            )
            for strategy in STRATEGIES:
                values = [
                    rolling(load, strategy, window, seed)
                    for seed, load in zip(args.seeds, traffic, strict=True)
                ]
                factor = float(np.mean(values))
                print(f"  {strategy:20s} {factor:.3f}", flush=True)
                rows.append({"devices": devices, "window": window, "strategy": strategy, "factor": factor})
            if args.plan:
                factor = float(np.mean([planned(load, window) for load in traffic]))
                print(f"  {'(whole windows planned)':20s} {factor:.3f}", flush=True)
                rows.append({"devices": devices, "window": window, "strategy": "planned", "factor": factor})
        if args.optimum:
            print(f"{devices} devices, {args.optimum} single windows of {args.optimum_window}:")
            gaps = optimum_gap(traffic[0], args.optimum_window, args.optimum, args.seeds[0])
            for name, value in gaps.items():
                print(f"  {name:20s} {value:.4f}  ({value / gaps['best of all'] - 1:+.2%})", flush=True)
            rows.append({"devices": devices, "optimum_window": args.optimum_window, "mean_factor": gaps})
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        config = vars(args) | {"loads": str(args.loads), "json": str(args.json)}
        args.json.write_text(json.dumps({"config": config, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
