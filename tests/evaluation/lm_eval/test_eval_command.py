"""`evenmoe eval` as it is typed: three ways to say the same, folders, the table, interruptions and refusals."""

import json
import subprocess
import sys

import pytest

from evenmoe.cli.eval_running import eval_configs
from evenmoe.evaluation.ledger import JOURNAL_NAME
from evenmoe.evaluation.lm_eval.model import EvenMoELM


@pytest.fixture
def evaluate(evenmoe, tiny_checkpoint, toy_tasks, tmp_path):
    """Run `evenmoe eval` on a toy task; gives (status, output, errors)."""

    def call(*arguments, start=("eval", tiny_checkpoint), out=tmp_path / "out"):
        common = ["--include-path", toy_tasks, "--devices", 2, "--batch-size", 4, "--limit", 4, "--out", out]
        return evenmoe(*start, *common, *arguments)

    return call


def test_three_ways_of_saying_it_give_the_same_bytes(evaluate, tiny_checkpoint, tmp_path):
    starts = [
        ("eval", tiny_checkpoint),
        ("eval", "run", tiny_checkpoint),
        ("eval", "--model", tiny_checkpoint),
    ]
    written = []
    for number, start in enumerate(starts):
        status, out, _ = evaluate("--tasks", "toy_choices", start=start, out=tmp_path / str(number))
        assert status == 0
        assert "toy_choices" in out
        written.append((tmp_path / str(number) / "items/toy_choices.jsonl").read_bytes())
    assert len(set(written)) == 1


def test_several_policies_have_a_folder_each_and_one_table(evaluate, tmp_path):
    status, out, err = evaluate(
        "--tasks", "toy_choices,toy_letters", "--policy", "baseline", "--policy", "token_drop:keep=first",
        "--gamma", 0.5, "--check-repeat", "--json", tmp_path / "all.json",
    )  # fmt: skip
    assert status == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"baseline", "token_drop-first-gamma0.5"}
    assert err.count("the same bytes") == 2
    assert "No limit" in out
    assert "Token Drop (first), γ 0.5" in out
    body = json.loads((tmp_path / "all.json").read_text())
    assert [result["config"]["gamma"] for result in body["evaluations"]] == [None, 0.5]


def test_there_is_one_evaluation_per_policy_and_gamma_where_it_has_one():
    configs = eval_configs(
        ["baseline", "fill", "expert_drop"], [1.5, 1.0], model="m", tasks=("t",), batch_size="8"
    )
    assert [config.key for config in configs] == ["baseline", "fill-gamma1.5", "fill-gamma1", "expert_drop"]


def test_an_interruption_says_how_to_go_on_and_the_same_command_does(evaluate, tmp_path, monkeypatch):
    calls = []
    original = EvenMoELM._last_logits

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(EvenMoELM, "_last_logits", interrupted)
    status, _, err = evaluate("--tasks", "toy_choices")
    assert status == 130
    assert "the same command goes on" in err
    assert (tmp_path / "out" / JOURNAL_NAME).exists()
    status, _, _ = evaluate("--tasks", "toy_choices")
    assert status == 0
    assert len(calls) == 2 + 1 + 1, "three batches, the third of them twice"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"eval.json", "items", "loads.json"}


def test_check_repeat_fails_where_bytes_differ(evaluate, monkeypatch):
    monkeypatch.setattr(
        "evenmoe.evaluation.lm_eval.run.check_repeat", lambda *_, **__: ["items of toy_choices"]
    )
    status, _, err = evaluate("--tasks", "toy_choices", "--check-repeat")
    assert status == 1
    assert "items of toy_choices" in err


def test_ls_lists_tasks_with_shots_and_whether_the_data_is_here(evenmoe, tmp_path):
    status, out, _ = evenmoe("eval", "ls", "--json", tmp_path / "list.json")
    assert status == 0
    assert "winogrande" in out
    rows = {row["task"]: row for row in json.loads((tmp_path / "list.json").read_text())}
    assert rows["evenmoe_bundled_go"]["local"] is True
    assert (rows["arc_challenge"]["num_fewshot"], rows["arc_challenge"]["dataset"]) == (25, "allenai/ai2_arc")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["suite", "bundled, language or multimodal"]),
        (("--suite", "languages"), ["suite", "languages", "bundled, language, multimodal"]),
        (("--suite", "language", "--tasks", "rte,trivia"), ["tasks", "trivia", "openbookqa"]),
        (("--tasks", "toy_choices", "--policy", "tokendrop"), ["tokendrop", "token_drop"]),
        (("--tasks", "toy_choices", "--policy", "token_drop"), ["gamma", "above 0"]),
        (("--tasks", "toy_choices", "--gamma", "1.5"), ["gamma", "baseline", "no capacity"]),
        (("--tasks", "toy_choices", "--batch-size", "auto"), ["batch_size", "auto", "fixed"]),
        (("--tasks", "toy_choices", "--scope", "world"), ["scope", "world", "global"]),
        (("--tasks", "toy_far"), ["toy_far", "nobody/no-such-dataset", "To do:"]),
        (("--suite", "multimodal", "--check-repeat"), ["check_repeat", "multimodal"]),
        (("--model", "other", "--tasks", "toy_choices"), ["model", "given once"]),
    ],
)
def test_what_is_not_allowed_is_one_line_and_writes_nothing(evaluate, tmp_path, arguments, words):
    status, _, err = evaluate(*arguments)
    assert status == 2
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_the_group_alone_shows_its_commands(evenmoe):
    _, out, _ = evenmoe("eval", "--help")
    assert all(command in out for command in ("run", "compare", "ls"))


def test_without_lm_eval_one_line_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['lm_eval'] = None; from evenmoe.cli.main import run; run()"
    arguments = ["eval", "bundled:text", "--suite", "bundled", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "evenmoe[eval]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
