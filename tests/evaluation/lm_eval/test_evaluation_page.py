"""docs/evaluation.md runs as printed, and says what the code has."""

import doctest
from pathlib import Path

from evenmoe.evaluation.lm_eval.options import HARNESS_OPTIONS
from evenmoe.evaluation.lm_eval.suites import SUITES

PAGE = Path(__file__).parents[3] / "docs" / "evaluation.md"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 9


def test_the_page_names_every_option_and_task():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{option}`" in text for option in HARNESS_OPTIONS)
    for task in SUITES["language"].tasks:
        row = next(line for line in text.splitlines() if line.startswith("|") and task.name in line)
        assert f"| {task.num_fewshot} | `{task.metric}` |" in row
