"""The page on simulation runs as printed and names everything; the bench prints and saves."""

import doctest
import json
from dataclasses import fields
from pathlib import Path

import pytest

from evenmoe.simulation import Continuous, CvExecution, FormulaCosts, RunMetrics
from evenmoe.simulation.benchmark import BENCH_MODELS

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 6


def test_the_page_names_every_setting_and_metric():
    text = PAGE.read_text(encoding="utf-8")
    settings = [one.name for kind in (Continuous, CvExecution, FormulaCosts) for one in fields(kind)]
    metrics = [one.name for one in fields(RunMetrics)]
    families = ("latency_", "ttft_", "tpot_")
    missing = [
        name
        for name in [*settings, *metrics]
        if f"`{name}`" not in text and not name.startswith(families) and name != "num_layers"
    ]
    assert not missing
    assert all(f"`{family}*_s`" in text for family in families)


def test_the_bench_prints_and_saves_every_kind(evenmoe, tmp_path):
    path = tmp_path / "bench.json"
    status, out, _ = evenmoe("bench", "simulator", "--requests", 40, "--strategy", "lpt", "--json", path)
    assert status == 0
    assert "static/cv" in out
    body = json.loads(path.read_text())
    assert body["config"] == {"requests": 40, "seed": 0}
    assert [(row["model"], row["strategy"]) for row in body["rows"]] == [
        (model, strategy) for model in BENCH_MODELS for strategy in ("fcfs", "lpt")
    ]
    assert all(row["requests"] == 40 and row["cpu_us_per_request"] > 0 for row in body["rows"])
    assert body["rows"][0]["ratio_to_fcfs"] == 1.0
    assert body["versions"]["evenmoe"]


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--model", "static", "static/cv, static/straggler, continuous/straggler"),
        ("--strategy", "best", "fcfs"),
    ],
)
def test_the_bench_refuses_what_there_is_not(evenmoe, option, value, told):
    status, _, error = evenmoe("bench", "simulator", "--requests", 10, option, value)
    assert status != 0
    assert told in error
