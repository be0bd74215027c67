"""The page on scheduling runs as printed and names everything; the bench prints and saves; real loads."""

import doctest
import importlib.util
import json
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evenmoe.scheduling import STRATEGIES, SchedulerConfig, config_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scheduling.md"
RECORDED = ROOT.parent / "shared" / "data" / "expert_loads"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 10


def test_the_page_names_every_strategy_and_setting_and_its_toml_is_read():
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in STRATEGIES)
    assert all(f"`{field.name}`" in text for field in fields(SchedulerConfig))
    body = tomllib.loads(text.split("```toml\n")[1].split("```")[0])
    assert config_of(body).scheduler.options.exchanges == 4


def test_the_bench_prints_and_saves_every_strategy(tmp_path):
    from evenmoe.cli.main import app

    path = tmp_path / "bench.json"
    arguments = [
        "bench",
        "scheduler",
        "--window",
        "12",
        "--batch-size",
        "3",
        "--repeats",
        "2",
        "--json",
        str(path),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    body = json.loads(path.read_text())
    assert [row["strategy"] for row in body["rows"]] == list(STRATEGIES)
    assert all(row["median_ms"] >= row["best_ms"] > 0 for row in body["rows"])
    assert body["rows"][0]["ratio_to_fcfs"] == 1.0
    assert body["config"]["cases"] == [{"batch_size": 3, "window": 12, "entries": 60, "num_layers": 1}]
    assert body["versions"]["evenmoe"]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded loads are not here")
@pytest.mark.parametrize("devices", [8, 64])
def test_peak_excess_beats_all_twelve_on_recorded_loads(devices):
    from evenmoe.loads import read_loads
    from evenmoe.placement import DomainLoads

    spec = importlib.util.spec_from_file_location("run", ROOT / "runs" / "scheduling_strategies.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    domains = DomainLoads.of(read_loads(RECORDED / "olmoe-1b-7b.json"))
    load_NLD = run.draw_requests(domains, devices, 1200, 32, np.random.default_rng(1))
    factors = {name: run.rolling(load_NLD, name, 32, 0) for name in STRATEGIES}
    published = [factor for name, factor in factors.items() if name not in ("peak_excess", "auto")]
    assert factors["peak_excess"] < min(published)
    assert factors["auto"] < min(published)
    assert factors["fcfs"] > 1.05 * factors["greedy_variance"]
