"""`auto` may not cost over 1% of P99 beside fcfs: at each published load, and in the steady state under capacity."""

import pytest

from evenmoe.simulation.studies.intervals import paired_gain
from evenmoe.simulation.studies.journal import Journal
from evenmoe.simulation.studies.paper import PaperConfig, RunPaperCells
from evenmoe.simulation.studies.paper_comparison import LOST_POINTS
from evenmoe.simulation.studies.steady import SteadyConfig, run_steady
from evenmoe.simulation.studies.study import run_cells

STRATEGIES = ("fcfs", "auto")


@pytest.mark.slow
def test_auto_at_the_published_loads(tmp_path):
    config = PaperConfig(strategies=STRATEGIES, seeds=(42, 123))
    run = RunPaperCells(config=config, requests=config.requests)
    rows = run_cells(config.cells(), run, journal=Journal(tmp_path / "cells.jsonl", {}))
    p99 = {
        (row["pattern"], row["rate_per_s"], row["strategy"], row["seed"]): row["latency_p99_s"]
        for row in rows
    }
    gain_pct = {
        (pattern, rate): 100
        * paired_gain(
            *([p99[pattern, rate, name, seed] for seed in config.seeds] for name in ("auto", "fcfs"))
        ).mean
        for pattern in config.patterns
        for rate in config.rates_per_s
    }
    assert min(gain_pct.values()) >= LOST_POINTS, gain_pct
    assert gain_pct["bursty", 150.0] > 15, "and it is no mere fcfs"


@pytest.mark.slow
def test_auto_in_the_steady_state(tmp_path):
    config = PaperConfig(seeds=(42, 123))
    steady = SteadyConfig(requests=3000, strategies=STRATEGIES)
    found = run_steady(config, steady, journal=Journal(tmp_path / "cells.jsonl", {}))
    gain_pct = {
        (line["pattern"], line["share"]): 100 * line["p99_gain"]["mean"]
        for line in found["lines"]
        if line["strategy"] == "auto"
    }
    assert len(gain_pct) == 10
    assert min(gain_pct.values()) >= LOST_POINTS, gain_pct
