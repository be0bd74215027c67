"""runs/eval_*.sh: what each variable does, which errors name what, and that they run whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POLICIES = {
    "score": "token_drop",
    "first": "token_drop:keep=first",
    "last": "token_drop:keep=last",
    "random": "token_drop:keep=random",
    "overselect": "expanded_drop",
    "expanded": "expanded_drop",
    "fill": "fill",
    "device": "token_drop:level=device",
    "image-first": "token_drop:modality=image-first",
    "text-first": "token_drop:modality=text-first",
}


@pytest.fixture
def call(tmp_path):
    """Run a script with these variables; gives (exit status, standard output, standard error)."""

    def run(script, *arguments, evenmoe=None, cwd=tmp_path, **variables):
        known = (
            "PRETRAINED",
            "STRATEGY",
            "EXPERT_CAPACITY",
            "OUTPUT_PATH",
            "BATCH_SIZE",
            "SUITE",
            "TASKS",
            "OUT",
        )
        env = {key: value for key, value in os.environ.items() if key not in known}
        env |= {
            "EVENMOE": str(evenmoe or spoken(tmp_path)),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        } | variables
        done = subprocess.run(
            ["sh", str(ROOT / "runs" / script), *arguments], capture_output=True, text=True, env=env, cwd=cwd
        )
        return done.returncode, done.stdout, done.stderr

    return run


def spoken(folder: Path) -> Path:
    """A stand-in for evenmoe that says how it was called, one argument a line."""
    path = folder / "evenmoe"
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    path.chmod(0o755)
    return path


def option(said: str, name: str) -> str:
    lines = said.splitlines()
    return lines[lines.index(name) + 1]


@pytest.mark.parametrize("strategy", POLICIES)
def test_each_strategy_is_its_policy_and_has_its_folder(call, tmp_path, strategy):
    (tmp_path / "model").mkdir()
    status, said, _ = call(
        "eval_capacity.sh", PRETRAINED="model", STRATEGY=strategy, EXPERT_CAPACITY="1.5", BATCH_SIZE="4"
    )
    assert status == 0
    assert said.splitlines()[:3] == ["eval", "run", str(tmp_path / "model")]
    assert option(said, "--policy") == POLICIES[strategy]
    assert option(said, "--gamma") == "1.5"
    assert option(said, "--batch-size") == "4"
    assert option(said, "--suite") == "language"
    assert option(said, "--out") == str(tmp_path / "model" / "expert_capacity-1.5" / strategy)


@pytest.mark.parametrize(
    ("strategy", "variables", "policy", "folder"),
    [
        ("expert_drop", {}, "expert_drop:fraction=0.1", "expert_drop-0.1"),
        ("expert_drop", {"FRACTION": "0.5"}, "expert_drop:fraction=0.5", "expert_drop-0.5"),
        ("threshold", {"THRESHOLD": "0.2"}, "threshold_drop:threshold=0.2", "threshold-0.2"),
    ],
)
def test_strategies_without_a_capacity_take_their_own_number(call, strategy, variables, policy, folder):
    given = {"PRETRAINED": "bundled:text", "STRATEGY": strategy} | variables
    status, said, _ = call("eval_capacity.sh", **given)
    assert status == 0
    assert option(said, "--policy") == policy
    assert "--gamma" not in said
    assert option(said, "--out") == f"out/eval/bundled-text/{folder}"
    status, _, error = call("eval_capacity.sh", EXPERT_CAPACITY="1.5", **given)
    assert status == 2
    assert "EXPERT_CAPACITY=1.5" in error


def test_the_baseline_has_a_place_of_its_own(call, tmp_path):
    (tmp_path / "model").mkdir()
    _, said, _ = call(
        "eval_baseline.sh", "--limit", "3", PRETRAINED=str(tmp_path / "model"), TASKS="piqa,rte"
    )
    assert option(said, "--policy") == "baseline"
    assert option(said, "--out") == str(tmp_path / "model" / "baseline")
    assert option(said, "--tasks") == "piqa,rte"
    assert option(said, "--limit") == "3"
    assert "--suite" not in said
    _, said, _ = call("eval_baseline.sh", PRETRAINED="bundled:text", OUT=str(tmp_path))
    assert option(said, "--suite") == "bundled"
    assert option(said, "--out") == str(tmp_path / "eval/bundled-text/baseline")


def test_output_path_is_where_results_go(call, tmp_path):
    given = {"STRATEGY": "fill", "EXPERT_CAPACITY": "2"}
    _, said, _ = call("eval_capacity.sh", PRETRAINED="bundled:text", OUTPUT_PATH="here", **given)
    assert option(said, "--out") == str(tmp_path / "here")
    _, said, _ = call("eval_capacity.sh", PRETRAINED="allenai/OLMoE-1B-7B", OUTPUT_PATH="/there", **given)
    assert said.splitlines()[2] == "allenai/OLMoE-1B-7B"
    assert option(said, "--out") == "/there"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({}, "PRETRAINED is not set"),
        ({"PRETRAINED": "gone"}, "PRETRAINED=gone: there is no such folder"),
        ({"PRETRAINED": "/gone/away"}, "PRETRAINED=/gone/away: there is no such folder"),
        ({"PRETRAINED": "models/gone"}, "PRETRAINED=models/gone: there is no such folder"),
        ({"PRETRAINED": "bundled:text"}, "STRATEGY is not set: one of score, first"),
        ({"PRETRAINED": "bundled:text", "STRATEGY": "best"}, "STRATEGY=best is unknown: one of score, first"),
        ({"PRETRAINED": "bundled:text", "STRATEGY": "score"}, "EXPERT_CAPACITY is not set"),
        (
            {"PRETRAINED": "bundled:text", "STRATEGY": "score", "EXPERT_CAPACITY": "many"},
            "EXPERT_CAPACITY=many is no capacity factor",
        ),
    ],
)
def test_what_is_missing_or_unknown_is_an_error_that_names_it(call, variables, named):
    status, said, error = call("eval_capacity.sh", **variables)
    assert (status, said) == (2, "")
    assert named in error


@pytest.mark.slow
def test_a_baseline_a_limit_and_their_comparison_run_whole(call, tmp_path):
    """The baseline is clearly above the chance of one in four: by four standard deviations of guessing."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (the extra `eval`)")
    evenmoe = Path(sys.executable).with_name("evenmoe")
    given = {"PRETRAINED": "bundled:text", "OUT": str(tmp_path), "evenmoe": evenmoe}
    given |= {"TASKS": "evenmoe_bundled_go,evenmoe_bundled_arithmetic"}
    assert call("eval_baseline.sh", "--limit", "40", **given)[0] == 0
    status, _, error = call(
        "eval_capacity.sh", "--limit", "40", STRATEGY="score", EXPERT_CAPACITY="1", **given
    )
    assert status == 0, error
    folder = tmp_path / "eval/bundled-text"
    assert (folder / "expert_capacity-1/score/eval.json").exists()

    from evenmoe.evaluation.scoring.compare import compare_evaluations
    from evenmoe.evaluation.scoring.evaluations import find_evaluations

    base, drop = compare_evaluations(find_evaluations([folder])).rows
    assert base.mean.score > 0.25 + 4 * (0.25 * 0.75 / 80) ** 0.5
    assert drop.label == "Token Drop, γ 1"
    assert drop.loads.drop_rate > 0
