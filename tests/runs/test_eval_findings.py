"""runs/eval_findings.py: contrasts worked by hand, and verdicts that can go either way."""

import importlib.util
from pathlib import Path

import pytest

from tests.evaluation.scoring.made import LOADS, make_evaluation

PATH = Path(__file__).parents[2] / "runs" / "eval_findings.py"
spec = importlib.util.spec_from_file_location("eval_findings", PATH)
findings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(findings)


@pytest.fixture
def measured(tmp_path):
    def made(name, scores, factor, *policy):
        loads = LOADS.model_copy(update={"straggler_factor": factor})
        make_evaluation(tmp_path / name, {"go": scores}, *policy, loads=loads)

    made("a", [1, 1, 1, 1], 2.0, "baseline")
    made("b", [1, 1, 1, 0], 1.0, "token_drop", 2.0)
    made("c", [1, 0, 0, 0], 1.5, "expert_drop:fraction=0.5")
    made("d", [0, 0, 0, 0], 0.5, "token_drop:keep=random", 2.0)
    made("e", [1, 1, 1, 0], 1.0, "token_drop:level=device", 1.0)
    return findings.Evaluations(tmp_path)


def test_names(measured):
    assert set(measured.stragglers) == {
        "baseline",
        "score γ 2",
        "expert_drop 0.5",
        "random γ 2",
        "device γ 1",
    }


def test_a_policy_is_interpolated_to_the_same_straggler_factor(measured, capsys):
    # half way between b and a: items 1, 1, 1, 0.5; minus c: 0, 1, 1, 0.5; mean 0.625, squares 0.6875, / 3 / 4
    value, stderr = measured.contrast({"score γ 2": 0.5, "baseline": 0.5, "expert_drop 0.5": -1.0})
    assert value == 62.5
    assert stderr == pytest.approx(100 * (0.6875 / 12) ** 0.5)
    findings.expert_drop(measured, "expert_drop 0.5")
    assert (
        "0.50 score γ 2 + 0.50 baseline > expert_drop 0.5 | 1.00 / 2.00 / 1.50 | +62.50 ± 23.94 | agrees"
        in (capsys.readouterr().out)
    )


def test_outside_the_measured_factors_nothing_is_said():
    assert findings.bracket({"a": 1.0, "b": 2.0}, ["a", "b"], 0.5) is None
    assert findings.bracket({"a": 1.0, "b": 2.0}, ["a", "b"], 2.5) is None
    assert findings.bracket({"a": 1.0, "b": 2.0, "c": 1.2}, ["a", "b", "c"], 1.5) == ("c", "b")


@pytest.mark.parametrize(
    ("value", "wanted", "said"),
    [
        (2.1, ">", "agrees"),
        (1.9, ">", "undecided"),
        (-1.9, ">", "undecided"),
        (-2.1, ">", "disagrees"),
        (2.1, ">=", "agrees"),
        (-1.9, ">=", "agrees (equal within the error)"),
        (-2.1, ">=", "disagrees"),
    ],
)
def test_verdicts(value, wanted, said):
    assert findings.verdict(value, 1.0, wanted) == said
