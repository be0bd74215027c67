"""The examples of the page on tasks and comparison."""

import doctest
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_on_tasks_runs_as_printed():
    results = doctest.testfile(str(ROOT / "docs" / "eval_tasks.md"), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 7


def test_every_strategy_of_the_script_is_on_the_page():
    script = (ROOT / "runs" / "eval_capacity.sh").read_text()
    strategies = script.partition('strategies="')[2].partition('"')[0].split(", ")
    page = (ROOT / "docs" / "eval_tasks.md").read_text()
    assert len(strategies) > 10
    assert all(f"`{strategy}`" in page for strategy in strategies)
