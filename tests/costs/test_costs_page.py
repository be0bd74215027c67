"""The page on costs runs as printed."""

import doctest
from pathlib import Path


def test_the_example_runs_as_printed():
    page = Path(__file__).parents[2] / "docs" / "costs.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 8
