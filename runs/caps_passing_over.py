"""docs/caps_study.md, "Why fcfs wins at Poisson 150/s": what reordering alone does, and what bounding it does.

    python runs/caps_passing_over.py --rate 150 --jobs 2

`random` evens nothing under Poisson arrivals, so what it does to latency is reordering alone. A bound says how often a
request may be passed over before it goes first. Gains are over fcfs, the mean over seeds with its 95% interval.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from joblib import Parallel, delayed

from evenmoe.simulation.studies.intervals import paired_gain, spread
from evenmoe.simulation.studies.paper import PaperConfig, RunPaperCells
from evenmoe.simulation.studies.study import grid

STRATEGIES = ("fcfs", "random", "greedy_variance", "peak_excess")
NO_BOUND = 1000


def rows_of(pattern: str, rate: float, seed: int, bound: int) -> dict[str, dict]:
    """The row of every strategy for one seed."""
    config = PaperConfig()
    config = replace(config, scheduler=replace(config.scheduler, max_passed_over=bound))
    run = RunPaperCells(config=config, requests=config.requests)
    return {row["strategy"]: row for row in run(grid([pattern], [rate], [seed], STRATEGIES))}


def shown_as(strategy: str, field: str, runs: list[dict[str, dict]]) -> str:
    """The gain over fcfs with half of its interval; of fcfs the mean itself."""
    values, baseline = ([rows[name][field] for rows in runs] for name in (strategy, "fcfs"))
    if strategy == "fcfs":
        return f"{spread(values).mean:.3f} s"
    gain = paired_gain(values, baseline)
    half = "" if gain.low is None else f" ±{50 * (gain.high - gain.low):.1f}"
    return f"{100 * gain.mean:+.1f}{half}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pattern", default="poisson")
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--bounds", type=int, nargs="+", default=[NO_BOUND, 8, 6, 4, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=PaperConfig().seeds)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    found = Parallel(n_jobs=args.jobs)(
        delayed(rows_of)(args.pattern, args.rate, seed, bound) for bound in args.bounds for seed in args.seeds
    )
    print(f"{'passed over':12s} {'strategy':16s} {'imbalance':>9s} {'P50 gain, %':>14s} {'P99 gain, %':>14s}")
    for number, bound in enumerate(args.bounds):
        runs = found[number * len(args.seeds) : (number + 1) * len(args.seeds)]
        for strategy in STRATEGIES:
            imbalance = spread([rows[strategy]["imbalance"] for rows in runs]).mean
            shown = [shown_as(strategy, field, runs) for field in ("latency_p50_s", "latency_p99_s")]
            at_most = "no bound" if bound >= NO_BOUND else f"{bound} times"
            print(
                f"{at_most:12s} {strategy:16s} {imbalance:9.3f} {shown[0]:>14s} {shown[1]:>14s}", flush=True
            )


if __name__ == "__main__":
    main()
