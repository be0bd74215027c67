"""The workload of `evenmoe simulate paper`: which synthetic topics have the imbalance that CAPS's figures imply.

    python runs/caps_fit.py --samples 120 --jobs 2

Five figures are fitted, each a mean imbalance factor, time over that of an even load: under bursts of fcfs, of the
leading strategies and of random, under Poisson of fcfs and of the leading strategies. Four settings of the workload
are searched (topics, concentration, request noise, burst length); the sensitivity is the least-squares one for each.
What is published beyond that (karmarkar_karp, lpt, every P99, who wins at Poisson 150/s) is not looked at: it is what
the fitted workload then predicts.

Points are drawn at random from the ranges below, evaluated on a short run, and the best tenth again on a longer one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from evenmoe.scheduling import SchedulerConfig
from evenmoe.simulation import CvExecution, simulate
from evenmoe.simulation.studies.paper import PaperWorkload
from evenmoe.simulation.studies.published import read_published

TOPICS = (4, 6, 8, 12, 16, 24, 32)
CONCENTRATION = (0.05, 1.0)
NOISE = (0.1, 1.2)
BURST = (8.0, 64.0)
RATE = 1000.0
LEADING = "greedy_variance"
RUNS = (
    ("bursty", "fcfs"),
    ("bursty", LEADING),
    ("bursty", "random"),
    ("poisson", "fcfs"),
    ("poisson", LEADING),
)
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Point:
    """A workload that was tried. error: root of the mean square difference of the factors."""

    workload: PaperWorkload
    sensitivity: float
    factors: tuple[float, ...]
    error: float


def targets() -> tuple[float, ...]:
    """The published factors, in the order of RUNS."""
    published = read_published()
    return tuple(
        published.factor(pattern, strategy if strategy != LEADING else "leading")
        for pattern, strategy in RUNS
    )


def draw(rng: np.random.Generator) -> PaperWorkload:
    """A point of the ranges: concentration, noise and burst length log-uniform."""
    low, high = np.log([CONCENTRATION, NOISE, BURST]).T
    concentration, noise, burst = np.exp(rng.uniform(low, high)).tolist()
    return PaperWorkload(
        num_topics=int(rng.choice(TOPICS)),
        concentration=concentration,
        request_noise=noise,
        burst_requests=burst,
    )


def evaluate(workload: PaperWorkload, num_requests: int, seeds: tuple[int, ...]) -> Point:
    """Mean CV of the batches of each run, and the sensitivity that fits best. The queue is deep from the start."""
    execution = CvExecution(sensitivity=1.0, prefill_s=1.0)
    variation = [
        np.mean(
            [
                simulate(
                    workload.made(pattern, RATE),
                    execution,
                    SchedulerConfig(strategy=strategy, max_passed_over=num_requests),
                    seed=seed,
                    num_requests=num_requests,
                ).imbalance
                - 1.0
                for seed in seeds
            ]
        )
        for pattern, strategy in RUNS
    ]
    x, y = np.array(variation), np.array(targets()) - 1.0
    sensitivity = float(x @ y / (x @ x))
    factors = tuple((1.0 + sensitivity * x).tolist())
    error = float(np.sqrt(np.mean((sensitivity * x - y) ** 2)))
    return Point(workload=workload, sensitivity=sensitivity, factors=factors, error=error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=120)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    workloads = [draw(rng) for _ in range(args.samples)]
    in_parallel = Parallel(n_jobs=args.jobs)
    rough = in_parallel(delayed(evaluate)(workload, 800, (1,)) for workload in workloads)
    best = sorted(rough, key=lambda point: point.error)[: max(args.samples // 10, 1)]
    fine = in_parallel(delayed(evaluate)(point.workload, 3000, (1, 2)) for point in best)
    fine = sorted([*fine, evaluate(PaperWorkload(), 3000, (1, 2))], key=lambda point: point.error)
    names = " ".join(f"{pattern[:1]}/{strategy[:6]:7s}" for pattern, strategy in RUNS)
    print(f"error  topics concentration noise burst sensitivity  {names}")
    print(f"{'published':48s} " + " ".join(f"{value:9.3f}" for value in targets()))
    for point in [*fine[:SHOWN], *(point for point in fine[SHOWN:] if point.workload == PaperWorkload())]:
        work = point.workload
        print(
            f"{point.error:.4f} {work.num_topics:6d} {work.concentration:13.3f} {work.request_noise:5.2f} "
            f"{work.burst_requests:5.1f} {point.sensitivity:11.3f}   "
            + " ".join(f"{value:9.3f}" for value in point.factors)
            + ("  <- the default" if work == PaperWorkload() else "")
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        body = {"targets": targets(), "points": [asdict(point) for point in fine]}
        args.json.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
