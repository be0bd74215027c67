"""The page on CAPS's study says what the study is, and names everything in its results."""

import json
from pathlib import Path

from evenmoe.simulation.studies.paper import PaperConfig, PaperWorkload
from evenmoe.simulation.studies.paper_results import FIGURES, GAINS, UNITS, paper_results
from evenmoe.simulation.studies.published import read_published

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs" / "caps_study.md").read_text(encoding="utf-8").split())


def test_it_states_the_workload_that_is_run():
    work, config = PaperWorkload(), PaperConfig()
    assert (
        f"{work.num_topics} topics, concentration {work.concentration:g} (Dirichlet), request noise "
        f"{work.request_noise:g}, bursts of {work.burst_requests:g} requests in the mean, sensitivity "
        f"{config.sensitivity:g}"
    ) in PAGE
    assert f"only {work.burst_intensity:g} times as fast as the mean rate" in PAGE
    assert f"spread by {work.prompt_sigma:.0%}" in PAGE
    seeds, rates = " ".join(map(str, config.seeds)), " ".join(f"{rate:g}" for rate in config.rates_per_s)
    assert f"--requests {config.requests} --seeds {seeds} --rates {rates}" in PAGE


def test_it_names_every_part_of_the_results():
    config = PaperConfig(strategies=("fcfs",))
    row = dict.fromkeys(FIGURES.values(), 1.0) | {"strategy": "fcfs", "latency_quantiles_s": [1.0]}
    rows = [
        row | {"pattern": cell.pattern, "rate_per_s": cell.rate_per_s, "seed": cell.seed}
        for cell in config.cells()
    ]
    body = paper_results(config, rows, steady_state=None, versions={}, generated="")
    assert json.loads(json.dumps(body, allow_nan=False))
    parts = {*body, *GAINS, *body["bursty"]["150"], *UNITS} - {"fcfs", "format", "version"}
    assert all(f"`{part}`" in PAGE for part in parts if part.isidentifier()), parts


def test_it_has_the_published_figures():
    published = read_published()
    for low, high in (*published.p99["bursty"].values(), *published.p99["poisson"].values()):
        assert (f"{low:g}" if low == high else f"{low} to {high}") in PAGE
