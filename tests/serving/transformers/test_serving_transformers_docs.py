"""The page's examples run as printed."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "serving_transformers.md"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 15
