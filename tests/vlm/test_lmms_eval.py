"""lmms-eval for real, offline: its own command line with our model, our run in it, and what both must agree on.

The model is the bundled one where it ships, else a tiny random one, whose answers are nonsense but depend on what is
dropped all the same.
"""

import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip(
    "lmms_eval", reason="lmms-eval is not installed: `make test-vlm` makes an environment with it"
)

from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval.evaluator import simple_evaluate

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.ledger import JOURNAL_NAME
from evenmoe.evaluation.scenes import heldout_items
from evenmoe.evaluation.scoring import EvalConfig, read_eval_result, read_items
from evenmoe.evaluation.specs import parse_policy
from evenmoe.evaluation.vision.answering import open_answerer
from evenmoe.evaluation.vision.lmms_eval import TASKS_PATH
from evenmoe.evaluation.vision.lmms_eval.loading import load_tasks
from evenmoe.evaluation.vision.lmms_eval.model import EvenMoELmms
from evenmoe.evaluation.vision.lmms_eval.run import run_lmms_eval
from evenmoe.evaluation.vision.lmms_eval.scores import scored_task
from evenmoe.evaluation.vision.run import run_scenes
from evenmoe.evaluation.vision.scoring import scene_prompt
from evenmoe.evaluation.vision.sources import MissingDatasetError
from evenmoe.models.bundled import bundled_names
from tests.evaluation.vision.tiny_vlm import save_tiny_vlm

pytestmark = [pytest.mark.vlm, pytest.mark.timeout(900)]

SHIPS = "vlm" in bundled_names()
PER_FAMILY = 4
LIMIT = 6 * PER_FAMILY
DROP = {"policy": parse_policy("token_drop:keep=random"), "gamma": 1.0}
"""Drawing at random shows a batch, or an order of batches, that is not the same."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return "bundled:vlm" if SHIPS else str(save_tiny_vlm(tmp_path_factory.mktemp("tiny_vlm")))


def configured(pretrained, task="evenmoe_scenes", **settings):
    common = {"limit": LIMIT, "batch_size": 8, "num_devices": 2}
    return EvalConfig(model=pretrained, tasks=(task,), **(common | settings))


@pytest.fixture(scope="module")
def dropped(pretrained, tmp_path_factory):
    """Our run of lmms-eval with tokens dropped: (folder, result)."""
    folder = tmp_path_factory.mktemp("dropped")
    return folder, run_lmms_eval(configured(pretrained, **DROP), folder)


def answers_of(folder, task):
    return [(item.item, item.score, item.answer) for item in read_items(folder / task.items_file)]


def test_the_command_line_of_lmms_eval_agrees_with_our_run_of_it(pretrained, dropped, tmp_path):
    options = f"pretrained={pretrained},policy=token_drop:keep=random,gamma=1.0,devices=2,report={tmp_path / 'report'}"
    command = [sys.executable, "-m", "lmms_eval", "--model", "evenmoe", "--model_args", options]
    command += ["--batch_size", "8", "--tasks", "evenmoe_scenes", "--include_path", str(TASKS_PATH)]
    command += ["--limit", str(LIMIT), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=800, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    results = list((tmp_path / "out").rglob("*_results.json"))
    assert len(results) == 1, done.stdout[-2000:] + done.stderr[-2000:]
    theirs = json.loads(results[0].read_text())["results"]["evenmoe_scenes"]
    samples = [
        json.loads(line) for line in next((tmp_path / "out").rglob("*_samples_*")).read_text().splitlines()
    ]

    folder, ours = dropped
    assert ours.tasks[0].score == theirs["exact_match,none"]
    said = [sample["filtered_resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
    assert said == [answer for _, _, answer in answers_of(folder, ours.tasks[0])]
    run = json.loads((tmp_path / "report" / "run.json").read_text())
    assert run["batches"] == ours.batches
    assert run["loads"] == ours.loads.model_dump(mode="json")
    assert (tmp_path / "report" / "loads.json").read_bytes() == (folder / "loads.json").read_bytes()
    assert run["loads"]["drop_rate"] > 0.05


def test_our_result_is_lmms_eval_s_aggregate_and_the_mean_of_its_items(dropped):
    folder, result = dropped
    task, harness = result.tasks[0], json.loads((folder / "lmms_eval.json").read_text())
    rows = read_items(folder / task.items_file)
    assert (task.task, task.metric, task.num_items) == ("evenmoe_scenes", "exact_match", LIMIT)
    assert task.score == harness["results"]["evenmoe_scenes"]["exact_match,none"]
    assert task.score == pytest.approx(sum(row.score for row in rows) / LIMIT)
    assert task.stderr == pytest.approx(harness["results"]["evenmoe_scenes"]["exact_match_stderr_clt,none"])
    assert [row.item for row in rows] == [item.id for item in heldout_items(PER_FAMILY)]
    assert result.batches["num_batches"] == LIMIT // 8
    assert read_eval_result(folder) == result
    assert sorted(path.name for path in folder.iterdir()) == [
        "eval.json",
        "items",
        "lmms_eval.json",
        "loads.json",
    ]


def test_the_same_answers_as_without_a_harness(pretrained, dropped, tmp_path):
    folder, theirs = dropped
    ours = run_scenes(configured(pretrained, "scenes", **DROP | {"limit": PER_FAMILY}), tmp_path)
    rows = {
        row.item: (row.score, row.answer)
        for task in ours.tasks
        for row in read_items(tmp_path / task.items_file)
    }
    assert {item: (score, answer) for item, score, answer in answers_of(folder, theirs.tasks[0])} == rows
    assert theirs.loads == ours.loads


def test_no_limit_and_an_infinite_one_say_the_same(pretrained, tmp_path):
    without = run_lmms_eval(configured(pretrained), tmp_path / "without")
    infinite = {"policy": parse_policy("token_drop"), "gamma": float("inf")}
    endless = run_lmms_eval(configured(pretrained, **infinite), tmp_path / "endless")
    assert endless.tasks == without.tasks
    assert answers_of(tmp_path / "endless", endless.tasks[0]) == answers_of(
        tmp_path / "without", without.tasks[0]
    )
    assert endless.loads == without.loads
    assert endless.loads.drop_rate == 0
    if SHIPS:
        assert without.tasks[0].score > 0.75


def test_an_interrupted_run_goes_on_to_the_same_bytes(pretrained, dropped, tmp_path):
    def stop(_label, done, _total):
        if done >= 16:
            raise KeyboardInterrupt

    config = configured(pretrained, **DROP)
    with pytest.raises(KeyboardInterrupt):
        run_lmms_eval(config, tmp_path, stop)
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL_NAME]
    resumed = run_lmms_eval(config, tmp_path)
    assert resumed.fingerprint_bytes() == dropped[1].fingerprint_bytes()
    assert not list(tmp_path.rglob("*partial*"))


@pytest.mark.parametrize("task", ["evenmoe_scenes", "evenmoe_scenes_choice"])
def test_no_expert_runs_more_than_its_capacity(pretrained, task):
    gamma, over = 1.0, []
    model = EvenMoELmms.of(
        configured(pretrained, policy=parse_policy("token_drop"), gamma=gamma, scope="global")
    )

    def watch(step):
        pairs, num_experts = int(step.chosen_TE.sum()), step.chosen_TE.shape[1]
        if step.applied:
            capacity = -(-pairs // num_experts)
            over.append(int(step.kept_TE.sum(0).max()) - capacity)
            assert step.tokens.real_T is None or not step.kept_TE[~step.tokens.real_T].any()

    with model.attached.observed(watch):
        simple_evaluate(model=model, tasks=load_tasks([task]), limit=8, bootstrap_iters=0)
    assert over
    assert max(over) == 0
    assert model.loads.drop_rate > 0


def test_multiple_choice_picks_what_the_likelihoods_say(pretrained, tmp_path):
    config = configured(pretrained, "evenmoe_scenes_choice", **DROP)
    result = run_lmms_eval(config, tmp_path)
    items = heldout_items(PER_FAMILY)
    with open_answerer(config) as answerer:
        options = [[f" {option}" for option in item.options] for item in items]
        chosen = answerer.choose([scene_prompt(item) for item in items], options)
    rows = read_items(tmp_path / result.tasks[0].items_file)
    assert [
        int(row.answer) for row in rows
    ] == chosen  # an option is one token, so loss per token is likelihood
    right = [item.options[place] == item.answer for item, place in zip(items, chosen, strict=True)]
    assert [row.score for row in rows] == [float(one) for one in right]
    assert result.tasks[0].score == pytest.approx(sum(right) / LIMIT)


def request(task, *arguments):
    return SimpleNamespace(task_name=task, doc_id=0, idx=0, args=(*arguments, 0, task, "test"))


def test_what_cannot_be_asked_is_refused(pretrained):
    model = EvenMoELmms.of(configured(pretrained))
    model.task_dict = {"films": {"test": [{"video": "clip.mp4"}]}}
    films = request("films", "what happens?", {}, lambda doc: [doc["video"]])
    with pytest.raises(UnsupportedModelError, match="films shows a video"):
        model.generate_until([films])
    with pytest.raises(ConfigError, match=r"films: temperature = 0\.7"):
        model.generate_until([request("films", "what?", {"temperature": 0.7}, lambda _doc: [])])
    with pytest.raises(UnsupportedModelError, match="films asks in several rounds"):
        model.generate_until_multi_round([films])
    model.close()


def test_a_loss_survives_the_evaluator(pretrained):
    """lmms-eval's evaluator makes text of a bare pair of numbers, and scores with the least."""
    model = EvenMoELmms.of(configured(pretrained))
    item = heldout_items(1)[0]
    model.task_dict = {"t": {"test": [None]}}
    show = scene_prompt(item).images
    found = model.loglikelihood(
        [request("t", item.question, f" {word}", lambda _doc: show) for word in item.options]
    )
    pairs = [unwrap_generation_output(one)[0] for one in found]
    assert all(loss > 0 and isinstance(greedy, bool) for loss, greedy in pairs)
    model.close()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gama": 1}, "gama"),
        ({"max_batch_size": 4}, "max_batch_size"),
        ({"batch_size": "auto"}, "batch_size"),
    ],
)
def test_options_are_refused_before_a_model_is_loaded(options, field):
    with pytest.raises(ConfigError, match=field):
        EvenMoELmms(pretrained="no/such/model", **options)


def test_several_processes_are_refused(pretrained, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        EvenMoELmms.of(configured(pretrained))


def test_data_that_cannot_be_had_is_named_and_nothing_is_written(pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    out = tmp_path / "out"
    with pytest.raises(
        MissingDatasetError, match=r"^mme: its dataset lmms-lab-encoder/MME cannot be had"
    ) as refused:
        run_lmms_eval(configured(pretrained, "mme"), out)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="a task of lmms-eval, such as mmbench"):
        run_lmms_eval(configured(pretrained, "mmbenchh"), out)
    with pytest.raises(ConfigError, match="mmbench_en_dev_static"):
        run_lmms_eval(configured(pretrained, "mmbench_en_dev"), out)
    assert not out.exists()


def scored_by(process, aggregate, metric, documents, answers):
    """What our reading makes of a benchmark's own scoring code, on documents written out by hand."""
    samples = [
        {"doc_id": place, "doc": document, "filtered_resps": [answer], **process(document, [answer])}
        for place, (document, answer) in enumerate(zip(documents, answers, strict=True))
    ]
    total = aggregate([sample[metric] for sample in samples])
    whole = {"results": {"t": {f"{metric},none": total}}, "samples": {"t": samples}, "n-shot": {}}
    return scored_task("t", metric, whole, aggregate, "t")


def test_the_benchmarks_own_code_scores_items_and_whole(tmp_path):
    from lmms_eval.tasks.mmbench.en_utils import mmbench_aggregate_dev_results_static, mmbench_process_results
    from lmms_eval.tasks.mme.utils import mme_aggregate_results, mme_process_results
    from lmms_eval.tasks.seedbench.utils import seed_aggregation_result, seed_process_result

    asked = [{"question_id": i // 2, "category": "count", "answer": "Yes"} for i in range(4)]
    mme = scored_by(
        mme_process_results,
        mme_aggregate_results,
        "mme_perception_score",
        asked,
        ["Yes.", "no", "yes", "Yes"],
    )
    assert [item.score for item in mme.items] == [1.0, 0.0, 1.0, 1.0]
    assert (
        mme.score.score == 125.0
    )  # one question half right, 50, the other right in both, 100 + 100: their mean
    assert mme.score.stderr is None

    seed_asked = [{"question_id": i, "data_type": "image", "answer": "A"} for i in range(4)]
    seed = scored_by(
        seed_process_result, seed_aggregation_result, "seed_all", seed_asked, ["A", "A. a cat", "B", "a"]
    )
    assert [item.score for item in seed.items] == [1.0, 1.0, 0.0, 1.0]
    assert seed.score.score == 0.75
    assert seed.score.stderr == pytest.approx(0.25)

    choices = {
        "A": "red",
        "B": "blue",
        "C": "green",
        "D": "white",
        "hint": "nan",
        "source": "s",
        "split": "dev",
    }
    mmbench_asked = [
        {
            "index": i,
            "question": "?",
            "answer": "B",
            "category": "colour",
            "L2-category": "attribute",
            **choices,
        }
        for i in range(2)
    ]
    static = partial(mmbench_aggregate_dev_results_static, args=SimpleNamespace(output_path=str(tmp_path)))
    mmbench = scored_by(mmbench_process_results, static, "gpt_eval_score", mmbench_asked, ["B", "C."])
    assert [item.score for item in mmbench.items] == [100.0, 0.0]
    assert mmbench.items[0].group == "attribute"
    assert mmbench.score.score == 50.0
    assert mmbench.score.stderr == pytest.approx(50.0)


def test_the_model_is_as_before_when_the_run_is_over(pretrained):
    model = EvenMoELmms.of(configured(pretrained, **DROP))
    inner = model._answerer.model
    model.clean()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inner.modules())
    assert isinstance(model.device, torch.device)
