"""Tables of a comparison: every figure is in each of them, and they fit the terminal."""

import csv
import io

import pytest
from rich.console import Console

from evenmoe.evaluation.scoring.compare import compare_evaluations
from evenmoe.evaluation.scoring.evaluations import find_evaluations
from evenmoe.reporting.quality_tables import (
    comparison_csv,
    comparison_markdown,
    comparison_tables,
    short_task_names,
)
from tests.evaluation.scoring.made import make_evaluation

TASKS = [
    f"evenmoe_bundled_{name}" for name in ("arithmetic", "dictionary", "french", "german", "go", "python")
]


def everywhere(scores):
    return dict.fromkeys(TASKS, scores)


@pytest.fixture
def comparison(tmp_path):
    make_evaluation(tmp_path / "none", everywhere([1, 1, 1, 0, 0, 1, 1, 1]))
    make_evaluation(tmp_path / "drop", everywhere([1, 0, 1, 0, 1, 0, 0, 1]), "token_drop", 1.5)
    make_evaluation(tmp_path / "fill", everywhere([1] * 8), "fill", 1.0, loads=None)
    return compare_evaluations(find_evaluations([tmp_path]))


def drawn(comparison, width):
    console = Console(file=io.StringIO(), width=width)
    tables = comparison_tables(comparison, width)
    for table in tables:
        console.print(table)
    return tables, console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_task_is_shown_once_and_nothing_is_cut(comparison, width):
    tables, text = drawn(comparison, width)
    names = [column.header for table in tables for column in table.columns if column.header != "policy"]
    assert names == ["mean", "drop %", "straggler", *short_task_names(TASKS)]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("-25.0 ± 25.0") == len(TASKS)


def test_a_wide_terminal_gets_one_table(comparison):
    assert len(comparison_tables(comparison, 200)) == 1
    assert len(comparison_tables(comparison, 60)) > 1


def test_markdown_has_score_and_change(comparison):
    header, _, none, drop, fill = comparison_markdown(comparison).splitlines()
    assert header.startswith("| policy | arithmetic | dictionary |")
    assert none.startswith("| No limit | 75.0 (± 16.4) |")
    assert drop.startswith("| Token Drop, γ 1.5 | 50.0 (-25.0 ± 25.0) |")
    assert drop.endswith("| 25.0 | 1.20 |")
    assert fill.endswith("|  |  |")
    assert {line.count("|") for line in (header, none, drop, fill)} == {len(TASKS) + 5}


def test_csv_has_a_line_per_policy_and_task_and_mean(comparison):
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert len(rows) == 3 * (len(TASKS) + 1)
    drop = [row for row in rows if row["policy"] == "token_drop"]
    assert [row["task"] for row in drop] == [*TASKS, "mean"]
    assert float(drop[0]["difference_stderr"]) == 0.25
    assert (drop[-1]["num_items"], drop[-1]["num_worse"]) == ("48", "18")


def test_tasks_on_different_scales_have_no_mean(tmp_path):
    for name, policy, gamma in (("none", "baseline", None), ("fill", "fill", 1.0)):
        scores = {"mme": [1, 0, 1], "mmbench": [1, 1, 0]}
        make_evaluation(tmp_path / name, scores, policy, gamma, totals={"mme": 1300.0}, result={"mean": None})
    comparison = compare_evaluations(find_evaluations([tmp_path]))
    assert comparison.rows[0].mean is None
    tables, text = drawn(comparison, 200)
    assert [column.header for column in tables[0].columns][:2] == ["policy", "drop %"]
    assert "1300.0" in text
    assert "mean" not in comparison_csv(comparison)
    assert "mean" not in comparison_markdown(comparison)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["evenmoe_bundled_go", "evenmoe_bundled_sql"], ["go", "sql"]),
        (["evenmoe_bundled", "evenmoe_bundled_sql"], ["bundled", "bundled_sql"]),
        (["mmlu_a", "piqa"], ["mmlu_a", "piqa"]),
        (["evenmoe_bundled_go"], ["evenmoe_bundled_go"]),
    ],
)
def test_short_names(names, short):
    assert short_task_names(names) == short
