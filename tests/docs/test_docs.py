"""The documentation's examples run, and its links lead somewhere."""

import doctest
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])


def test_the_worked_examples_of_the_metrics_hold():
    results = doctest.testfile(str(ROOT / "docs" / "metrics.md"), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 10


def test_the_python_page_runs_as_printed():
    results = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert results.failed == 0
    assert results.attempted >= 12


def test_the_command_line_page_names_every_command_and_row_field():
    from evenmoe.cli.main import app
    from evenmoe.evaluation.results import Row

    text = (ROOT / "docs" / "cli.md").read_text()
    commands = [command.name for command in app.registered_commands] + [
        group.name for group in app.registered_groups
    ]
    assert all(f"## {command}" in text for command in commands)
    assert all(f"`{field}`" in text for field in Row.model_fields)


def test_the_example_of_an_imported_table_is_read(tmp_path):
    from evenmoe.loads import read_loads

    text = (ROOT / "docs" / "loads-file.md").read_text()
    body = re.search(r"```json\n(.*?)```", text, re.S)[1]
    path = tmp_path / "table.json"
    path.write_text(body)
    loads = read_loads(path)
    assert list(loads.by_tag) == ["code", "books"]
    assert (
        loads.total.before_LE.tolist()[0]
        == [11, 7, 6, 8]
        == list(map(sum, zip(*_first_layers(body), strict=True)))
    )


def _first_layers(body):
    return [layers[0] for layers in json.loads(body)["domains"].values()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
