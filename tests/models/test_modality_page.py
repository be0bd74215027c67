"""The page on image and text tokens runs as printed."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "modality.md"


def test_the_page_runs_as_printed():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 20
