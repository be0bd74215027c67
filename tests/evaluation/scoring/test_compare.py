"""Comparing policies: figures worked by hand, what is refused, and in which words."""

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.scoring.compare import compare_evaluations, mean_difference
from evenmoe.evaluation.scoring.comparison import Comparison
from evenmoe.evaluation.scoring.evaluations import find_evaluations
from tests.evaluation.scoring.made import make_evaluation

BASE = {"go": [1, 1, 1, 0, 0, 1, 1, 1], "sql": [1, 0, 1, 0]}
DROPPED = {"go": [1, 0, 1, 0, 1, 0, 0, 1], "sql": [1, 0, 0, 0]}


@pytest.fixture
def two(tmp_path):
    make_evaluation(tmp_path / "none", BASE)
    make_evaluation(tmp_path / "drop", DROPPED, "token_drop", 1.5)
    return tmp_path


def compared(*folders, allow=()):
    return compare_evaluations(find_evaluations(folders), allow=allow)


def test_a_comparison_worked_by_hand(two):
    comparison = compared(two)
    base, drop = comparison.rows
    assert [base.label, drop.label] == ["No limit", "Token Drop, γ 1.5"]
    assert [task.task for task in comparison.tasks] == ["go", "sql"]
    go, sql = drop.tasks
    # go: see test_paired; sql: differences 0, 0, -1, 0: mean -1/4, squares 3/4, / 3 = 1/4, / 4 = 1/16
    assert (go.score, go.difference, go.difference_stderr) == (0.5, -0.25, 0.25)
    assert (go.num_better, go.num_worse) == (1, 3)
    assert (sql.score, sql.difference, sql.difference_stderr) == (0.25, -0.25, 0.25)
    # mean of tasks, not of items: (1/2 + 1/4) / 2; sqrt(1/16 + 1/16) / 2
    assert (drop.mean.score, drop.mean.difference) == (0.375, -0.25)
    assert drop.mean.difference_stderr == pytest.approx(0.125 * 2**0.5)
    assert (drop.mean.num_better, drop.mean.num_worse) == (1, 4)
    assert base.mean.score == 0.625
    assert base.mean.difference is None
    assert drop.loads.straggler_factor == 1.2


def test_a_comparison_survives_its_file(two):
    comparison = compared(two)
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12))
def test_a_result_beside_itself_differs_by_nothing(tmp_path_factory, scores):
    folder = tmp_path_factory.mktemp("same")
    make_evaluation(folder / "a", {"go": scores, "sql": scores})
    make_evaluation(folder / "b", {"go": scores, "sql": scores}, "fill", 1.0)
    row = compared(folder).rows[1]
    for cell in (*row.tasks, row.mean):
        assert cell.difference == 0
        assert cell.difference_stderr in (None, 0)
        assert cell.num_better == cell.num_worse == 0


def test_rows_come_in_the_order_of_the_papers_table(tmp_path):
    wanted = [
        ("expert_drop", None),
        ("token_drop", 2.0),
        ("token_drop", 1.0),
        ("token_drop:keep=random", 1.0),
        ("expanded_drop", 1.0),
        ("fill", 1.0),
        ("threshold_drop:threshold=0.1", None),
    ]
    for number, (policy, gamma) in enumerate(reversed(wanted)):
        make_evaluation(tmp_path / str(number), BASE, policy, gamma)
    make_evaluation(tmp_path / "z", BASE)
    rows = compared(tmp_path).rows
    assert [row.policy for row in rows] == ["baseline", *(policy.split(":")[0] for policy, _ in wanted)]
    assert [row.gamma for row in rows] == [None, *(gamma for _, gamma in wanted)]


def test_settings_of_the_policy_may_differ_and_are_in_the_label(two):
    make_evaluation(two / "device", DROPPED, "token_drop", 1.5, level="device", phases="prefill")
    make_evaluation(two / "none of its own", DROPPED, "expert_drop", level="device", min_tokens=9)
    assert {row.label for row in compared(two).rows} == {
        "No limit",
        "Expert Drop, min_tokens 9",
        "Token Drop, γ 1.5",
        "Token Drop, γ 1.5, level device, phases prefill",
    }


def test_where_the_tasks_came_from_does_not_count(two):
    make_evaluation(two / "fill", BASE, "fill", 1.0, suite=None, tasks=("everything",))
    assert len(compared(two).rows) == 3


def test_an_error_does_not_list_dozens_of_differences(two):
    changes = {"model": "m", "batch_size": 4, "limit": 8, "num_devices": 4, "seed": 1, "dtype": "bfloat16"}
    make_evaluation(two / "fill", DROPPED, "fill", 1.5, quantization="nf4", num_fewshot=3, **changes)
    with pytest.raises(ConfigError, match="; and 2 settings more") as refused:
        compared(two)
    assert str(refused.value).count(" there, ") == 6


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model": "other"}, r"model \('bundled:text' there, 'other' here\)"),
        ({"batch_size": 4}, r"batch_size \(16 there, 4 here\)"),
        ({"limit": 8}, "limit"),
        ({"num_devices": 4}, "num_devices"),
        ({"seed": 1}, "seed"),
        ({"dtype": "bfloat16"}, "dtype"),
        (
            {"result": {"batches": {"size": 16, "sha256": "abd"}}},
            r"batches\.sha256 \('abc' there, 'abd' here\)",
        ),
        ({"result": {"versions": {"evenmoe": "1", "torch": "3"}}}, r"versions\.torch"),
        ({"result": {"harness": "lmms-eval"}}, "harness"),
    ],
)
def test_what_differs_in_more_than_the_policy_is_refused_by_name(two, config, named):
    make_evaluation(two / "fill", DROPPED, "fill", 1.5, **config)
    with pytest.raises(ConfigError, match=named) as refused:
        compared(two)
    assert "fill" in str(refused.value)
    assert "none" in str(refused.value)


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        ({"go": BASE["go"]}, "tasks"),
        ({"go": BASE["go"], "sql": [1, 0, 1]}, r"tasks\.sql\.num_items \(4 there, 3 here\)"),
    ],
)
def test_other_tasks_or_items_are_refused(two, scores, named):
    make_evaluation(two / "fill", scores, "fill", 1.5)
    with pytest.raises(ConfigError, match=named):
        compared(two)
    with pytest.raises(ConfigError, match="allow"):
        compared(two, allow=("tasks",))


def test_items_of_other_names_are_refused(two):
    file = two / "drop" / "sql.jsonl"
    file.write_text(file.read_text().replace("sql-2", "sql-9"))
    with pytest.raises(ConfigError, match=r"tasks\.sql\.items \('sql-2' there, 'sql-9' here\)"):
        compared(two)


def test_what_the_caller_allows_is_compared_and_said(two):
    make_evaluation(two / "fill", DROPPED, "fill", 1.5, result={"versions": {"evenmoe": "1", "torch": "3"}})
    assert compared(two, allow=("versions.torch",)).allowed == ("versions.torch",)


def test_there_is_one_baseline_and_every_policy_once(two, tmp_path):
    with pytest.raises(ConfigError, match="missing"):
        compared(two / "drop")
    shutil.copytree(two / "drop", two / "again")
    with pytest.raises(ConfigError, match="one per policy"):
        compared(two)
    shutil.rmtree(two / "again")
    make_evaluation(two / "second", BASE, batch_size=2)
    with pytest.raises(ConfigError, match=r"one baseline only; .*batch_size"):
        compared(two)


def test_a_folder_given_twice_counts_once(two):
    assert len(compared(two, two / "drop", two / "drop" / "eval.json").rows) == 2


def test_folders_without_an_evaluation_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        compared(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"eval\.json"):
        compared(tmp_path)


def test_damaged_evaluations_are_named(two):
    items = two / "drop" / "sql.jsonl"
    whole = items.read_text()
    items.write_text(whole.partition("\n")[2])
    with pytest.raises(FileFormatError, match=r"sql\.jsonl has 3 items"):
        compared(two)
    items.unlink()
    with pytest.raises(FileFormatError, match=r"names sql\.jsonl"):
        compared(two)
    items.write_text(whole)
    (two / "drop" / "eval.json").write_text("{}")
    with pytest.raises(FileFormatError, match="not the result of an evaluation"):
        compared(two)


def test_a_score_that_is_no_mean_over_items_has_no_standard_error(tmp_path):
    make_evaluation(tmp_path / "a", BASE, totals={"go": 1300.0})
    make_evaluation(tmp_path / "b", DROPPED, "fill", 1.0, totals={"go": 1250.0})
    comparison = compared(tmp_path)
    go, sql = comparison.rows[1].tasks
    assert (go.difference, go.difference_stderr) == (-50.0, None)
    assert sql.difference_stderr == 0.25
    assert comparison.rows[1].mean.difference_stderr is None
    assert [task.share for task in comparison.tasks] == [False, True]


def test_two_policies_differ_by_what_their_differences_to_the_baseline_say(two):
    make_evaluation(two / "fill", {"go": [1, 1, 1, 0, 1, 0, 0, 1], "sql": [1, 0, 0, 1]}, "fill", 1.5)
    drop, fill, base = find_evaluations([two])
    # go: one of eight better, difference 1/8, squares 7/8, / 7 / 8 = 1/64; sql: 1/4, squares 3/4, / 3 / 4 = 1/16
    found = mean_difference(fill, drop)
    assert found.difference.value == (1 / 8 + 1 / 4) / 2
    assert found.difference.stderr == pytest.approx((1 / 64 + 1 / 16) ** 0.5 / 2)
    assert (found.num_better, found.num_worse) == (2, 0)
    direct = mean_difference(fill, base).difference.value - mean_difference(drop, base).difference.value
    assert found.difference.value == pytest.approx(direct)
    make_evaluation(two / "fill", DROPPED, "fill", 1.5, batch_size=2)
    with pytest.raises(ConfigError, match="batch_size"):
        mean_difference(find_evaluations([two / "fill"])[0], drop)
