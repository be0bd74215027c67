"""Our own lm-eval tasks: lm-eval finds and loads them from files on this machine, and asks what they say."""

import json
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (the extra `eval`)")

from lm_eval.tasks import TaskManager

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.cloze import cloze_items
from evenmoe.evaluation.lm_eval.local_data import NUM_EXAMPLES, bundled_cloze, local_gsm8k
from evenmoe.evaluation.lm_eval.model import EvenMoELM
from evenmoe.evaluation.lm_eval.run import run_lm_eval
from evenmoe.evaluation.lm_eval.task_files import task_folder
from evenmoe.evaluation.scoring import EvalConfig, read_items
from evenmoe.evaluation.specs import parse_policy
from evenmoe.evaluation.texts import heldout_texts

SHARED = Path(__file__).parents[3].parent / "shared/data/prompts/gsm8k_test.jsonl"
DOMAINS = sorted(heldout_texts())


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(task_folder()), include_defaults=False)


@pytest.fixture
def questions(tmp_path, monkeypatch):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"What is {n} and {n}?", "answer": f"It is <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"}
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("EVENMOE_GSM8K", str(path))
    return path


def task_of(manager, name):
    return manager.load([name])["tasks"][name]


def test_there_is_a_task_for_every_domain_and_a_group_of_them(manager):
    names = [f"evenmoe_bundled_{domain}" for domain in DOMAINS]
    assert sorted(manager.all_tasks) == sorted(["evenmoe_bundled", *names, "gsm8k_local"])
    assert sorted(manager.load(["evenmoe_bundled"])["tasks"]) == names


def test_what_is_asked_are_the_cloze_items(manager):
    domain = DOMAINS[-1]
    task = task_of(manager, f"evenmoe_bundled_{domain}")
    items = cloze_items(domain, heldout_texts()[domain])
    task.build_all_requests(limit=3)
    asked = [request.args for request in task.instances]
    assert asked == [(item.context, choice) for item in items[:3] for choice in item.choices]
    assert [task.doc_to_target(doc) for doc in task.test_docs()][:3] == [item.gold for item in items[:3]]


def test_the_most_likely_choice_is_what_counts(manager):
    task = task_of(manager, f"evenmoe_bundled_{DOMAINS[0]}")
    doc = task.test_docs()[0]
    likely = [(-1.0, False) if place == doc["gold"] else (-2.0, True) for place in range(4)]
    assert task.process_results(doc, likely)["acc"] == 1.0
    assert task.process_results(doc, [(-value, greedy) for value, greedy in likely])["acc"] == 0.0


def test_an_unknown_domain_is_refused():
    with pytest.raises(ConfigError, match="klingon"):
        bundled_cloze("klingon")


def test_gsm8k_asks_the_file_with_its_first_five_as_shots(manager, questions):
    task = task_of(manager, "gsm8k_local")
    assert len(task.test_docs()) == 8 - NUM_EXAMPLES
    task.build_all_requests()
    prompt, settings = task.instances[0].args
    assert prompt.startswith(
        "Question: What is 0 and 0?\nAnswer: It is <<0+0=0>>0.\n#### 0\n\nQuestion: What is 1"
    )
    assert prompt.endswith("Question: What is 5 and 5?\nAnswer:")
    assert settings["until"][0] == "Question:"


@pytest.mark.parametrize(
    ("said", "strict", "flexible"),
    [
        ("It is <<5+5=10>>10.\n#### 10", 1.0, 1.0),
        ("That makes 10", 0.0, 1.0),
        ("#### 11", 0.0, 0.0),
        ("I do not know", 0.0, 0.0),
    ],
)
def test_gsm8k_reads_answers_both_ways(manager, questions, said, strict, flexible):
    task = task_of(manager, "gsm8k_local")
    task.build_all_requests(limit=1)
    task.instances[0].resps.append(said)
    task.apply_filters()
    doc = task.test_docs()[0]
    found = {
        name: task.process_results(doc, [task.instances[0].filtered_resps[name]])["exact_match"]
        for name in ("strict-match", "flexible-extract")
    }
    assert found == {"strict-match": strict, "flexible-extract": flexible}


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_gsm8k_reads_the_published_test_set(monkeypatch):
    monkeypatch.setenv("EVENMOE_GSM8K", str(SHARED))
    data = local_gsm8k()
    assert (len(data["examples"]), len(data["test"])) == (NUM_EXAMPLES, 1319 - NUM_EXAMPLES)
    assert all("#### " in row["answer"] for row in data["test"])


def test_gsm8k_without_its_file_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("EVENMOE_GSM8K", raising=False)
    with pytest.raises(ConfigError, match="EVENMOE_GSM8K"):
        local_gsm8k()
    monkeypatch.setenv("EVENMOE_GSM8K", str(tmp_path / "gone.jsonl"))
    with pytest.raises(ConfigError, match=r"gone\.jsonl"):
        local_gsm8k()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"question": "a"}\n', "line 1"),
        ('{"question": "a", "answer": "b"}\nnot json\n', "line 2"),
        ("[1]\n", "line 1"),
        ('{"question": "a", "answer": "b"}\n' * NUM_EXAMPLES, "has 5 questions"),
    ],
)
def test_a_gsm8k_file_of_another_form_is_refused(questions, text, named):
    questions.write_text(text)
    with pytest.raises(FileFormatError, match=named):
        local_gsm8k()


def test_gsm8k_runs_whole_on_a_model(questions, tiny_checkpoint, tmp_path, monkeypatch):
    """On the published questions where they are there, else on a file of the same fields; a random model scores 0."""
    if SHARED.exists():
        monkeypatch.setenv("EVENMOE_GSM8K", str(SHARED))
    monkeypatch.setattr(EvenMoELM, "max_gen_toks", 12)
    config = EvalConfig(
        model=str(tiny_checkpoint),
        tasks=("gsm8k_local",),
        policy=parse_policy("token_drop"),
        gamma=1.0,
        num_devices=2,
        num_fewshot=0,
        limit=3,
        batch_size=2,
    )
    result = run_lm_eval(config, tmp_path / "out")
    (task,) = result.tasks
    assert (task.num_items, task.num_fewshot, task.score) == (3, 0, 0.0)
    assert task.metric.startswith("exact_match")
    assert len(read_items(tmp_path / "out" / task.items_file)) == 3
    assert result.loads.drop_rate > 0
