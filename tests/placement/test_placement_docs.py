"""The page on placement: its examples run, its file is a placement file, and it names every method and field."""

import doctest
import re
from pathlib import Path

from evenmoe.placement import read_placement
from evenmoe.placement.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "placement.md"


def test_the_examples_run():
    results = doctest.testfile(str(PAGE), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 9


def test_the_file_of_the_page_is_read(tmp_path):
    path = tmp_path / "placement.json"
    path.write_text(re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1])
    assert read_placement(path).holders_LE == (((0,), (1,), (0, 1), (1,)),)


def test_every_method_and_row_field_is_explained():
    text = PAGE.read_text(encoding="utf-8")
    fields = ("fitted_straggler_factor", "heldout_straggler_factor", "seconds", "copies_per_layer")
    assert all(f"`{name}`" in text for name in (*METHODS, *fields))
