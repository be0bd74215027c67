"""`evenmoe eval compare`: one table from folders, its files, and what it refuses."""

import csv
import json

import pytest

from evenmoe.evaluation.scoring.comparison import Comparison
from tests.evaluation.scoring.made import make_evaluation


@pytest.fixture
def two(tmp_path):
    make_evaluation(tmp_path / "results" / "none", {"go": [1, 1, 1, 0], "sql": [1, 0, 1, 0]})
    make_evaluation(
        tmp_path / "results" / "drop", {"go": [1, 0, 1, 0], "sql": [1, 0, 0, 0]}, "token_drop", 1.5
    )
    return tmp_path


def test_a_table_and_its_files(evenmoe, two):
    status, out, _ = evenmoe(
        "eval", "compare", two / "results", "--json", two / "new" / "c.json", "--csv", two / "new" / "c.csv"
    )
    assert status == 0
    assert out.index("No limit") < out.index("Token Drop, γ 1.5")
    assert "-25.0 ± 25.0" in out
    comparison = Comparison.model_validate_json((two / "new" / "c.json").read_text())
    assert comparison.rows[1].mean.difference == -0.25
    with (two / "new" / "c.csv").open() as file:
        assert [row["task"] for row in csv.DictReader(file)] == ["go", "sql", "mean"] * 2


def test_folders_one_by_one_give_the_same_as_the_folder_above(evenmoe, two):
    folder = two / "results"
    together = evenmoe("eval", "compare", folder, "--markdown")
    assert together[0] == 0
    assert evenmoe("eval", "compare", folder / "drop", folder / "none", "--markdown") == together


def test_what_cannot_be_compared_is_an_error_that_names_it(evenmoe, two):
    make_evaluation(
        two / "results" / "fill", {"go": [1, 1, 1, 0], "sql": [1, 0, 1, 0]}, "fill", 1.0, batch_size=2
    )
    status, out, error = evenmoe("eval", "compare", two / "results")
    assert (status, out) == (2, "")
    assert "batch_size (16 there, 2 here)" in error
    status, out, _ = evenmoe("eval", "compare", two / "results", "--allow", "batch_size")
    assert status == 0
    assert "These also differ: batch_size." in out
    status, _, error = evenmoe("eval", "compare", two / "results", "--allow", "batchsize")
    assert status == 2
    assert "batchsize" in error


def test_damage_is_an_error(evenmoe, two):
    (two / "results" / "drop" / "eval.json").write_text(json.dumps({"format": "other"}))
    status, _, error = evenmoe("eval", "compare", two / "results")
    assert status == 2
    assert "not the result of an evaluation" in error
