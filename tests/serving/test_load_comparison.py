"""Saved runs side by side, by hand."""

import json
import math

import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.serving.load.comparison import SavedRun, compare_runs, read_run


def run(label, seed, p99, *, finished=2.0, drop_rate=0.0, **config):
    body = {
        "config": {"label": label, "seed": seed, **config},
        "result": {"finished_per_s": finished, "latency": {"p99": p99}},
        "server": {"loads": {"drop_rate": drop_rate}},
    }
    return SavedRun(label=label, seed=seed, body=body)


def test_gains_are_paired_by_seed():
    comparison = compare_runs(
        [run("fcfs", 1, 4.0), run("auto", 0, 1.8), run("fcfs", 0, 2.0), run("auto", 1, 3.0)]
    )
    assert comparison.labels == ("fcfs", "auto")
    base, other = comparison.cells["latency P99, s"]
    assert (base.mean, base.gain) == (3.0, None)
    assert base.mean_error == pytest.approx(1.0)  # 2 and 4: deviation sqrt(2), over sqrt(2)
    assert other.mean == pytest.approx(2.4)
    # gains 0.1 and 0.25
    assert other.gain == pytest.approx(0.175)
    assert other.gain_error == pytest.approx(math.sqrt(2 * 0.075**2) / math.sqrt(2))


def test_more_is_better_of_throughput_and_less_of_all_others():
    cells = compare_runs([run("a", 0, 2.0), run("b", 0, 3.0, finished=3.0)]).cells
    assert cells["finished per second"][1].gain == pytest.approx(0.5)
    assert cells["latency P99, s"][1].gain == pytest.approx(-0.5)
    assert cells["latency P99, s"][1].gain_error is None


def test_shares_differ_in_points_also_from_nothing():
    cells = compare_runs([run("a", 0, 1.0), run("b", 0, 1.0, drop_rate=0.125)]).cells["dropped, %"]
    assert cells[1].mean == pytest.approx(12.5)
    assert cells[1].gain == pytest.approx(-12.5)


def test_a_figure_that_a_run_lacks_has_no_cell():
    comparison = compare_runs([run("a", 0, 1.0), run("b", 0, None)])
    assert comparison.cells["latency P99, s"][1] is None
    assert comparison.cells["straggler factor"] == (None, None)


def test_what_differs_beside_label_and_seed_is_told():
    comparison = compare_runs([run("a", 0, 1.0, rate=3, chat=False), run("b", 0, 1.0, rate=4, chat=False)])
    assert comparison.differing == {"rate": (3, 4)}


@pytest.mark.parametrize(
    "runs",
    [
        [run("a", 0, 1.0)],
        [run("a", 0, 1.0), run("a", 1, 1.0)],
        [run("a", 0, 1.0), run("b", 1, 1.0)],
        [run("a", 0, 1.0), run("a", 0, 1.0), run("b", 0, 1.0), run("b", 0, 1.0)],
        [run("a", 0, 1.0), run("a", 1, 1.0), run("b", 0, 1.0)],
    ],
)
def test_what_cannot_be_paired_is_refused(runs):
    with pytest.raises(ConfigError, match=r"label|seeds of"):
        compare_runs(runs)


def test_a_run_is_called_by_its_label_or_its_file(tmp_path):
    path = tmp_path / "monday.json"
    for label, name in ((None, "monday"), ("fcfs", "fcfs")):
        path.write_text(json.dumps({"config": {"label": label, "seed": 3}, "result": {}}), encoding="utf-8")
        assert (read_run(path).label, read_run(path).seed) == (name, 3)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"config": {}}', '{"config": 3}', '{"config": {"seed": "x"}}']
)
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"other\.json is not a result of evenmoe load"):
        read_run(path)
