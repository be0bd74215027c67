"""The paper's strong findings on the bundled suite: docs/eval_findings.md has all of them, with their figures."""

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (the extra `eval`)")

from evenmoe.evaluation.lm_eval.run import run_lm_eval
from evenmoe.evaluation.lm_eval.suites import suite_named
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.scoring.compare import mean_difference
from evenmoe.evaluation.scoring.evaluations import read_evaluation
from evenmoe.evaluation.specs import parse_policy

pytestmark = pytest.mark.slow

ITEMS = 24
"""Of each domain."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Evaluations by name of policy, each measured once."""

    def evaluate(policy, gamma):
        folder = tmp_path_factory.mktemp("findings")
        config = EvalConfig(
            model="bundled:text",
            suite="bundled",
            tasks=suite_named("bundled").task_names,
            policy=parse_policy(policy),
            gamma=gamma,
            limit=ITEMS,
        )
        run_lm_eval(config, folder)
        return read_evaluation(folder)

    return {
        "baseline": evaluate("baseline", None),
        "score": evaluate("token_drop", 1.0),
        "first": evaluate("token_drop:keep=first", 1.0),
    }


def test_the_baseline_is_clearly_above_chance(measured):
    scores = [task.score for task in measured["baseline"].result.tasks]
    guessing = (0.25 * 0.75 / (ITEMS * len(scores))) ** 0.5
    assert sum(scores) / len(scores) > 0.25 + 4 * guessing


def test_keeping_the_best_scores_beats_keeping_the_first(measured):
    found = mean_difference(measured["score"], measured["first"]).difference
    assert found.value > 2 * found.stderr


def test_both_are_as_even_and_drop_as_much(measured):
    score, first = (measured[name].result.loads for name in ("score", "first"))
    assert score.straggler_factor == pytest.approx(first.straggler_factor, rel=0.05)
    assert score.drop_rate == pytest.approx(first.drop_rate, rel=0.05)
    assert score.straggler_factor < measured["baseline"].result.loads.straggler_factor / 2
