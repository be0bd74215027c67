"""Finished cells survive: torn lines, files of others, crashes in the middle of a write."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.simulation.studies import journal as journal_module
from evenmoe.simulation.studies.journal import Journal, config_hash, differences, write_whole

CONFIG = {"requests": 10, "workload": {"topics": 3}}
ROWS = {"a": {"x": 1 / 3}, "b/1": {"x": [1, 2.5]}, "c": {"ü": None}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "cells.partial.jsonl"


def filled(path):
    journal = Journal(path, CONFIG)
    for key, row in ROWS.items():
        journal.add(key, row)
    return journal


def test_rows_come_back_exactly(path):
    filled(path)
    again = Journal(path, CONFIG)
    assert {key: again[key] for key in ROWS} == ROWS
    assert len(again) == 3
    assert "b/1" in again
    assert "d" not in again


def test_nothing_is_written_before_the_first_cell(path):
    Journal(path, CONFIG)
    assert not path.parent.exists()


def test_clear_removes_the_file(path):
    journal = filled(path)
    journal.clear()
    assert not path.exists()
    assert len(Journal(path, CONFIG)) == 0


@settings(max_examples=60)
@given(data=st.data())
def test_cut_at_any_byte_it_keeps_the_whole_lines_and_goes_on(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "cells.jsonl"
    filled(path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    journal = Journal(path, CONFIG)
    num_kept = max(whole[:cut].count(b"\n") - 1, 0)
    assert [key in journal for key in ROWS] == [number < num_kept for number in range(3)]
    journal.add("d", {"x": 4})
    again = Journal(path, CONFIG)
    assert again["d"] == {"x": 4}
    assert len(again) == num_kept + 1


def test_a_broken_line_in_the_middle_is_no_crash_and_is_refused(path):
    filled(path)
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-4]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(FileFormatError, match="line 3"):
        Journal(path, CONFIG)


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "hello\n", '{"format": "other"}\n'])
def test_another_kind_of_file_is_refused(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(FileFormatError, match="line 1"):
        Journal(path, CONFIG)
    assert path.read_text() == text


def test_cells_of_another_configuration_are_refused_by_the_name_of_what_differs(path):
    filled(path)
    with pytest.raises(ConfigError, match=r"other workload\)") as error:
        Journal(path, CONFIG | {"workload": {"topics": 4}})
    assert path.name in str(error.value)
    assert len(Journal(path, CONFIG)) == 3


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert config_hash({"a": 1, "b": [2]}) == config_hash({"b": [2], "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_differences_names_the_fields_and_does_not_tell_tuples_from_lists():
    assert differences({"a": (1, 2), "b": 1}, {"a": [1, 2], "b": 2, "c": None}) == ["b", "c"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch, fails):
    path = write_whole(tmp_path / "results.json", "old")

    def crash(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(journal_module.os, fails, crash)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_not_a_number_is_never_written(path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Journal(path, CONFIG).add("a", {"x": float("nan")})
    assert path.read_text().count("\n") == 1
    assert json.loads(path.read_text())["config"] == CONFIG
