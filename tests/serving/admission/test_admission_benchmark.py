"""The benchmark of admission: what it counts, not how long that takes."""

import json

from typer.testing import CliRunner

from evenmoe.cli.main import app
from evenmoe.serving.admission import Shape
from evenmoe.serving.admission.benchmark import AdmissionEngine, Case, bench_admission
from evenmoe.serving.admission.workload import Prompt
from evenmoe.serving.config import SchedulingConfig

SMALL = Case(
    name="small",
    shape=Shape(num_layers=2, num_experts=4, top_k=1),
    waiting=20,
    running=4,
    step_tokens=64,
    mean_tokens=10,
    mean_new_tokens=3,
)


def test_a_row_for_each_strategy_beside_an_engine_without_evenmoe():
    rows = bench_admission([SMALL], ["fcfs", "peak_excess"], steps=5)
    assert [row.strategy for row in rows] == ["fcfs, no predictor", "fcfs", "peak_excess"]
    assert rows[0].added_ms == 0
    assert all(0 < row.median_ms <= row.p99_ms for row in rows)


def test_the_engine_of_the_benchmark_serves_everyone():
    engine = AdmissionEngine(SMALL, SchedulingConfig(strategy="fcfs"))
    engine.step([Prompt(ids=[1] * 20, new_tokens=2)] * 9, observed=False)
    assert engine.num_waiting == 6, "three prompts of 20 tokens fit into 64"
    for _ in range(20):
        engine.step([], observed=False)
    assert engine.num_waiting == 0
    engine._admission.check_integrity()
    assert engine._num_tokens == 9 * (20 + 2)


def test_the_command_prints_and_saves_the_rows(tmp_path):
    path = tmp_path / "bench.json"
    options = [
        "--model",
        "bundled:text",
        "--waiting",
        "20",
        "--steps",
        "3",
        "--strategy",
        "fcfs",
        "--json",
        str(path),
    ]
    result = CliRunner().invoke(app, ["bench", "admission", *options])
    assert result.exit_code == 0, result.output
    body = json.loads(path.read_text())
    assert {row["strategy"] for row in body["rows"]} == {"fcfs, no predictor", "fcfs"}
    assert body["config"]["engine"] == "admission"
    assert "bundled:text" in result.output
