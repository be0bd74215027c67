"""What an evaluation leaves on disk comes back as it was; what is damaged is refused by name."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.scoring import (
    EvalConfig,
    EvalResult,
    ItemScore,
    TaskScore,
    read_eval_result,
    read_items,
    require_extra,
    write_items,
)
from evenmoe.evaluation.scoring.extras import MissingExtraError

TEXT = st.text(max_size=12)
ITEM = st.builds(
    ItemScore, item=TEXT, score=st.floats(allow_nan=False, allow_infinity=False), group=TEXT, answer=TEXT
)


def config(**changes):
    settings = {"model": "bundled:text", "tasks": ("one",), "policy": {"name": "token_drop"}, "gamma": 1.5}
    return EvalConfig(**(settings | changes))


def result(**changes):
    task = TaskScore(
        task="one",
        metric="acc",
        num_fewshot=0,
        num_items=2,
        score=0.5,
        stderr=0.5,
        items_file="items/one.jsonl",
    )
    settings = {
        "harness": "lm-eval",
        "config": config().model_dump(mode="json"),
        "label": config().label,
        "batches": {"size": 16},
        "versions": {"evenmoe": "0"},
        "tasks": (task,),
        "mean": 0.5,
        "loads": None,
        "loads_file": None,
        "seconds": 1.0,
    }
    return EvalResult(**(settings | changes))


@given(st.lists(ITEM, max_size=5))
def test_items_come_back_as_written(tmp_path_factory, items):
    path = tmp_path_factory.mktemp("items") / "deep" / "task.jsonl"
    write_items(path, items)
    assert read_items(path) == items


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "task.jsonl"
    write_items(path, [ItemScore(item="a", score=1.0)])
    path.write_text(path.read_text() + '{"item": "b"', encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"task\.jsonl, line 2,"):
        read_items(path)


def test_an_unknown_field_of_an_item_is_refused(tmp_path):
    path = tmp_path / "task.jsonl"
    path.write_text('{"item": "a", "score": 1, "colour": "red"}\n', encoding="utf-8")
    with pytest.raises(FileFormatError, match="colour"):
        read_items(path)


def test_a_result_comes_back_by_its_path_and_by_its_folder(tmp_path):
    path = result().write(tmp_path / "run")
    assert read_eval_result(path) == read_eval_result(tmp_path / "run") == result()


def test_two_runs_differ_in_time_alone():
    assert result(seconds=1.0).fingerprint_bytes() == result(seconds=2.0).fingerprint_bytes()
    assert result(mean=0.5).fingerprint_bytes() != result(mean=0.6).fingerprint_bytes()


def test_another_file_is_not_a_result(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"format": "evenmoe.results"}), encoding="utf-8")
    with pytest.raises(FileFormatError, match="not the result of an evaluation"):
        read_eval_result(tmp_path)


def test_an_infinite_gamma_survives_json():
    infinite = config(gamma=math.inf)
    assert json.loads(infinite.model_dump_json())["gamma"] == "inf"
    assert EvalConfig.model_validate_json(infinite.model_dump_json()) == infinite


def test_names_of_a_policy_in_a_folder_and_in_a_table():
    random = config(policy={"name": "token_drop", "options": {"keep": "random"}})
    assert (random.key, random.label) == ("token_drop-random-gamma1.5", "Token Drop (random), γ 1.5")
    assert config(policy={"name": "baseline"}, gamma=None).key == "baseline"


def test_the_common_options_reach_the_policy():
    policy = config(scope="global", level="device", isolation="request").build_policy()
    assert (policy.scope, policy.level, policy.isolation) == ("global", "device", "request")


def test_a_policy_with_a_capacity_needs_a_gamma():
    with pytest.raises(ConfigError, match="gamma"):
        config(gamma=None).build_policy()


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"batch_size": 0}, {"colour": "red"}, {"limit": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        config(**wrong)


def test_a_missing_extra_says_what_to_install():
    require_extra("eval", "json")
    with pytest.raises(MissingExtraError, match=r"no_such_package is not installed.*evenmoe\[eval\]"):
        require_extra("eval", "json", "no_such_package")
