"""run_lm_eval: lm-eval's own figures, the same bytes each time, also after an interruption, and clear refusals."""

import json
import math

import pytest
from lm_eval.evaluator import evaluate

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.ledger import JOURNAL_NAME
from evenmoe.evaluation.lm_eval import run_lm_eval
from evenmoe.evaluation.lm_eval.finding import DataError
from evenmoe.evaluation.lm_eval.model import EvenMoELM
from evenmoe.evaluation.lm_eval.run import check_repeat, open_model, units_of
from evenmoe.evaluation.lm_eval.suites import SUITES
from evenmoe.evaluation.scoring import read_items
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.loads import read_loads
from tests.evaluation.lm_eval.toys import config

TASKS = ("toy_choices", "toy_letters", "toy_spoken")


def files_of(folder):
    """Everything an evaluation wrote, as bytes; the result without its times."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = json.loads(found["eval.json"])
    del result["seconds"]
    return found | {"eval.json": json.dumps(result)}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, toy_tasks, tmp_path_factory):
    """An uninterrupted evaluation: its folder, its configuration and its result."""
    folder = tmp_path_factory.mktemp("whole")
    settings = config(tiny_checkpoint, toy_tasks, *TASKS)
    return folder, settings, run_lm_eval(settings, folder)


def test_scores_are_lm_evals_own_and_the_means_of_their_items(whole, tiny_checkpoint, toy_tasks):
    folder, settings, result = whole
    with open_model(settings) as model:
        for unit, score in zip(units_of(settings), result.tasks, strict=True):
            model.begin(unit.name)
            theirs = evaluate(model, dict(unit.loaded), bootstrap_iters=100)["results"][unit.name]
            filtered = score.metric + ",none"
            assert score.score == theirs[filtered]
            assert score.stderr == theirs[score.metric + "_stderr,none"]
            items = read_items(folder / score.items_file)
            assert score.score == pytest.approx(sum(item.score for item in items) / len(items))
            assert score.num_items == len(items)
    assert result.mean == pytest.approx(sum(task.score for task in result.tasks) / 3)
    assert [task.metric for task in result.tasks] == ["acc_norm", "acc", "exact_match"]


def test_the_result_says_how_batches_were_formed_and_what_was_dropped(whole):
    folder, _, result = whole
    letters = result.batches["tasks"]["toy_letters"][0]
    assert (letters["num_requests"], letters["num_rows"]) == (24, 6), "four letters of a question share a row"
    assert (letters["num_batches"], letters["rows_in_last"]) == (2, 2)
    assert result.batches["size"] == 4
    assert len(letters["sha256"]) == 64
    loads = read_loads(folder / result.loads_file)
    assert set(loads.by_tag) == set(TASKS)
    assert result.loads.drop_rate == loads.drop_rate > 0.2
    assert not (folder / JOURNAL_NAME).exists()


def test_two_runs_agree_to_the_byte_and_a_finished_one_is_not_run_again(whole, tmp_path, monkeypatch):
    folder, settings, result = whole
    again = run_lm_eval(settings, tmp_path)
    assert again.fingerprint_bytes() == result.fingerprint_bytes()
    assert files_of(tmp_path) == files_of(folder)
    monkeypatch.setattr("evenmoe.evaluation.lm_eval.run.open_model", None)
    assert run_lm_eval(settings, tmp_path) == again


def test_check_repeat_finds_nothing_and_finds_a_change(whole, tmp_path):
    folder, settings, _ = whole
    assert check_repeat(settings, folder) == []
    run_lm_eval(settings, tmp_path)
    items = tmp_path / "items/toy_choices.jsonl"
    items.write_text(items.read_text().replace('"item": "3"', '"item": "4"'))
    assert check_repeat(settings, tmp_path) == ["items of toy_choices"]


def test_a_score_does_not_depend_on_what_else_is_run(whole, tmp_path):
    folder, settings, _ = whole
    alone = settings.model_copy(update={"tasks": ("toy_spoken",)})
    run_lm_eval(alone, tmp_path)
    name = "items/toy_spoken.jsonl"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("after", [1, 9, 11])
def test_a_resumed_run_gives_the_bytes_of_an_uninterrupted_one(whole, tmp_path, monkeypatch, after):
    """Interrupted in the first, second and last task; draws at random, loads and times go on where they stopped."""
    folder, settings, _ = whole
    ran = []
    for name in ("_last_logits", "_model_generate"):
        fail_after(after, ran, name, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_lm_eval(settings, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL_NAME]
    with (tmp_path / JOURNAL_NAME).open("a") as file:
        file.write('{"key": "toy_choices/logl')  # a crash cuts the last line short
    counted = []
    fail_after(math.inf, counted, "_last_logits", monkeypatch)
    fail_after(math.inf, counted, "_model_generate", monkeypatch)
    run_lm_eval(settings, tmp_path)
    assert len(counted) == 12 - after, "finished batches were not run again"
    assert files_of(tmp_path) == files_of(folder)


def fail_after(count, ran, name, monkeypatch):
    """Let the first `count` batches of both kinds through, then interrupt."""
    original = getattr(EvenMoELM, name)

    def counting(self, *arguments, **options):
        if len(ran) >= count:
            raise KeyboardInterrupt
        ran.append(name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(EvenMoELM, name, counting)


def test_unfinished_batches_of_other_settings_are_not_mixed_in(whole, tmp_path, monkeypatch):
    _, settings, _ = whole
    fail_after(1, [], "_last_logits", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_lm_eval(settings, tmp_path)
    with pytest.raises(ConfigError, match="gamma"):
        run_lm_eval(settings.model_copy(update={"gamma": 0.75}), tmp_path)


def test_a_journal_that_is_damaged_is_refused(whole, tmp_path, monkeypatch):
    _, settings, _ = whole
    fail_after(1, [], "_last_logits", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_lm_eval(settings, tmp_path)
    monkeypatch.undo()
    path = tmp_path / JOURNAL_NAME
    header, row = path.read_text().splitlines()
    body = json.loads(row)
    body["row"]["loads"] = body["row"]["loads"][:40]
    path.write_text(header + "\n" + json.dumps(body) + "\n")
    with pytest.raises(FileFormatError, match="toy_choices"):
        run_lm_eval(settings, tmp_path)


def test_a_group_is_one_score_weighted_as_lm_eval_weights_it(tiny_checkpoint, toy_tasks, tmp_path):
    settings = config(tiny_checkpoint, toy_tasks, "toys", policy=PolicySpec(name="baseline"), gamma=None)
    (score,) = run_lm_eval(settings, tmp_path).tasks
    with open_model(settings) as model:
        (unit,) = units_of(settings)
        theirs = evaluate(model, dict(unit.loaded))
    assert score.score == theirs["groups"]["toys"]["acc,none"]
    assert score.stderr == theirs["groups"]["toys"]["acc_stderr,none"]
    items = read_items(tmp_path / score.items_file)
    assert [item.group for item in items] == ["few"] * 5 + ["many"] * 8
    assert score.score == pytest.approx(sum(item.score for item in items) / 13)
    assert [item.item for item in items[:2]] == ["few/0", "few/1"]


def test_a_metric_that_is_no_mean_has_no_standard_error(tiny_checkpoint, toy_tasks, tmp_path):
    (score,) = run_lm_eval(config(tiny_checkpoint, toy_tasks, "toy_texts"), tmp_path).tasks
    assert score.metric == "word_perplexity"
    assert score.stderr is None
    items = read_items(tmp_path / score.items_file)
    assert all(item.score < 0 for item in items), "log-likelihood per word"


def test_shots_come_from_the_suite_or_the_user_and_are_refused_where_a_task_takes_none(
    tiny_checkpoint, toy_tasks, tmp_path
):
    settings = config(tiny_checkpoint, toy_tasks, "toy_choices", num_fewshot=2, limit=3)
    (score,) = run_lm_eval(settings, tmp_path).tasks
    assert (score.num_fewshot, score.num_items) == (2, 3)
    with pytest.raises(ConfigError, match="toy_letters takes no shots"):
        units_of(config(tiny_checkpoint, toy_tasks, "toy_letters", num_fewshot=2))


def test_the_language_suite_is_the_papers(tiny_checkpoint):
    shots = {task.name: task.num_fewshot for task in SUITES["language"].tasks}
    assert shots == {
        "openbookqa": 0, "piqa": 0, "rte": 0, "winogrande": 5, "boolq": 0, "arc_challenge": 25, "hellaswag": 10,
        "mmlu": 5, "gsm8k": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("toy_far", ["toy_far", "nobody/no-such-dataset", "HF_HUB_OFFLINE", "leave the task out"]),
        ("openbookqa", ["openbookqa", "allenai/openbookqa"]),
        ("mmlu", ["mmlu", "cais/mmlu"]),
    ],
)
def test_data_that_cannot_be_had_is_one_line_and_leaves_nothing_behind(
    tiny_checkpoint, toy_tasks, tmp_path, no_network, monkeypatch, task, words
):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    out = tmp_path / "out"
    with pytest.raises(DataError) as error:
        run_lm_eval(config(tiny_checkpoint, toy_tasks, "toy_choices", task), out)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_nothing_of_a_local_evaluation_touches_the_network(tiny_checkpoint, toy_tasks, tmp_path, no_network):
    run_lm_eval(config(tiny_checkpoint, toy_tasks, "toy_choices", limit=2), tmp_path)


def test_a_model_that_cannot_be_had_leaves_nothing_behind(toy_tasks, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no/such/model"):
        run_lm_eval(config("no/such/model", toy_tasks, "toy_choices"), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": ("toys", "toys_few")}, ["toys_few", "once"]),
        ({"include_path": "/no/such/folder"}, ["include_path", "/no/such/folder"]),
        ({"suite": "tongues"}, ["suite", "tongues", "bundled, language"]),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny_checkpoint, toy_tasks, settings, words):
    with pytest.raises(ConfigError) as error:
        units_of(config(tiny_checkpoint, toy_tasks, "toy_choices").model_copy(update=settings))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.slow
def test_an_unknown_task_is_named_with_its_likes(tiny_checkpoint, toy_tasks):
    with pytest.raises(ConfigError, match=r"hellaswagg.*hellaswag"):
        units_of(config(tiny_checkpoint, toy_tasks, "hellaswagg"))
