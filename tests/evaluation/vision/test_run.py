"""The bundled set on a tiny random model, whose answers are nonsense: tasks, files, resuming, refusals."""

import json

import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation.ledger import JOURNAL_NAME
from evenmoe.evaluation.scenes import FAMILIES, heldout_items
from evenmoe.evaluation.scoring import EvalConfig, read_eval_result, read_items
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.evaluation.vision import answering
from evenmoe.evaluation.vision.run import run_multimodal
from evenmoe.evaluation.vision.scoring import is_right, scene_items, score_scenes
from evenmoe.evaluation.vision.suites import HARNESS_TASKS, multimodal_tasks, resolve_tasks, scene_tasks
from evenmoe.loads import read_loads
from tests.evaluation.vision.tiny_vlm import save_tiny_vlm

RANDOM = PolicySpec(name="token_drop", options={"keep": "random"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("tiny_vlm"))


def config(folder, **settings):
    common = {"tasks": ("scenes",), "limit": 2, "batch_size": 5, "num_devices": 2, "min_tokens": 1}
    return EvalConfig(model=str(folder), **(common | {"policy": RANDOM, "gamma": 0.5} | settings))


def written(out):
    """Every file of a result, without what time it took."""
    files = {path.name: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return files | {"eval.json": read_eval_result(out).fingerprint_bytes()}


def test_a_task_per_family_with_its_items_and_the_loads_of_all(folder, tmp_path):
    result = run_multimodal(config(folder), tmp_path)
    assert [task.task for task in result.tasks] == list(scene_tasks())
    assert all(task.num_items == 2 for task in result.tasks)
    assert result.config["tasks"] == list(scene_tasks())
    assert result.mean == pytest.approx(sum(task.score for task in result.tasks) / 6)
    assert result.batches["num_batches"] == 3
    assert result.batches["last_batch"] == 2
    assert read_eval_result(tmp_path) == result
    for task in result.tasks:
        rows = read_items(tmp_path / task.items_file)
        assert task.score == sum(row.score for row in rows) / 2
        assert {row.item for row in rows} <= {item.id for item in heldout_items(2)}
    loads = read_loads(tmp_path / result.loads_file)
    assert loads.drop_rate == pytest.approx(result.loads.drop_rate)
    assert 0.05 < loads.drop_rate < 1
    assert not list(tmp_path.rglob("*partial*"))


def test_two_runs_write_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        run_multimodal(config(folder), tmp_path / name)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    run_multimodal(config(folder), tmp_path / "whole")

    def stop(_label, done, _total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_multimodal(config(folder), tmp_path / "cut", stop)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [JOURNAL_NAME]
    calls = []
    generate = answering.generate
    monkeypatch.setattr(answering, "generate", lambda *args, **kw: calls.append(1) or generate(*args, **kw))
    run_multimodal(config(folder), tmp_path / "cut")
    assert len(calls) == 1
    assert written(tmp_path / "cut") == written(tmp_path / "whole")


def test_what_another_policy_left_unfinished_is_not_mixed_in(folder, tmp_path):
    def stop(*_now):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_multimodal(config(folder), tmp_path, stop)
    with pytest.raises(ConfigError, match="gamma"):
        run_multimodal(config(folder, gamma=1.0), tmp_path)


def test_a_family_alone_has_its_items_only(folder, tmp_path):
    task = "scenes_relation_reasoning"
    result = run_multimodal(config(folder, tasks=(task,), limit=3), tmp_path)
    assert [one.task for one in result.tasks] == [task]
    assert [row.item for row in read_items(tmp_path / result.tasks[0].items_file)] == [
        item.id for item in heldout_items(3) if item.family == "relation reasoning"
    ]


def test_the_set_is_taken_in_its_order_and_a_limit_takes_the_first_of_each_family(folder):
    items = scene_items(config(folder, tasks=tuple(scene_tasks()), limit=3))
    assert [item.id for item in items] == [item.id for item in heldout_items(3)]
    assert [item.family for item in items[:6]] == list(FAMILIES)


def test_right_answers_score_one_in_their_own_task(folder):
    items = scene_items(config(folder, tasks=tuple(scene_tasks()), limit=4))
    perfect = score_scenes(items, [item.answer for item in items])
    assert all(row.score == 1.0 for rows in perfect.values() for row in rows)
    one_wrong = [item.answer if index != 7 else "nothing" for index, item in enumerate(items)]
    wrong = [row.item for rows in score_scenes(items, one_wrong).values() for row in rows if not row.score]
    assert wrong == [items[7].id]


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Red", True), (" red. ", True), ("red blue", False), ("", False), ("dark red", False)],
)
def test_an_answer_is_right_but_for_case_and_a_full_stop(answer, right):
    assert is_right(answer, "red") is right


def test_the_suite_is_the_bundled_set_for_the_bundled_model_and_a_harness_for_others():
    assert multimodal_tasks("bundled:vlm") == ("scenes",)
    assert multimodal_tasks("Qwen/Qwen3-VL-30B-A3B-Instruct") == HARNESS_TASKS
    assert resolve_tasks(HARNESS_TASKS) is None
    assert resolve_tasks(("scenes",)) == tuple(scene_tasks())
    twice = ("scenes_logic_reasoning", "scenes_coarse_perception", "scenes_logic_reasoning")
    assert resolve_tasks(twice) == ("scenes_coarse_perception", "scenes_logic_reasoning")
    assert len(set(scene_tasks())) == len(FAMILIES)


@pytest.mark.parametrize("tasks", [(), ("scenes_reading",), ("scenes", "mme")])
def test_tasks_that_cannot_be_meant_are_refused(folder, tmp_path, tasks):
    with pytest.raises(ConfigError, match="tasks"):
        run_multimodal(config(folder, tasks=tasks), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_fewshot", 3),
        ("include_path", "tasks"),
        ("apply_chat_template", True),
        ("num_devices", 9),
        ("gamma", None),
    ],
)
def test_settings_that_cannot_act_leave_nothing_behind(folder, tmp_path, field, value):
    with pytest.raises(ConfigError, match=field):
        run_multimodal(config(folder, **{field: value}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_leaves_nothing_behind(tmp_path):
    with pytest.raises(ConfigError, match="no such directory"):
        run_multimodal(config(tmp_path / "absent"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_result_says_what_it_depends_on(folder, tmp_path):
    run_multimodal(config(folder), tmp_path)
    body = json.loads((tmp_path / "eval.json").read_text())
    assert body["harness"] == "evenmoe"
    assert body["config"]["policy"]["options"] == {"keep": "random"}
    assert {"torch", "transformers", "pillow"} <= set(body["versions"])


def test_a_checkpoint_that_is_not_in_the_cache_is_one_line_offline(evenmoe, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    status, _, err = evenmoe(
        *("eval", "nobody/no-such-vlm", "--suite", "multimodal", "--tasks", "scenes", "--policy", "baseline"),
        *("--out", tmp_path / "out"),
    )
    assert status == 2
    assert "hf download nobody/no-such-vlm" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_loads_are_split_into_image_and_text_tokens(folder, tmp_path):
    result = run_multimodal(config(folder, limit=1), tmp_path)
    loads = read_loads(tmp_path / result.loads_file)
    assert set(loads.by_tag) == {"image", "text"}
    parts = [loads.by_tag[tag].before_LE for tag in ("image", "text")]
    assert all(part.sum() > 0 for part in parts)
    assert (parts[0] + parts[1] == loads.total.before_LE).all()


def test_image_first_drops_images_and_text_first_text(folder, tmp_path):
    dropped = {}
    for modality in ("image-first", "text-first"):
        spec = PolicySpec(name="token_drop", options={"modality": modality})
        settings = {"policy": spec, "limit": 1, "phases": "prefill"}
        result = run_multimodal(config(folder, **settings), tmp_path / modality)
        loads = read_loads(tmp_path / modality / result.loads_file)
        dropped[modality] = {
            tag: 1 - counts.kept_L.sum() / counts.before_LE.sum() for tag, counts in loads.by_tag.items()
        }
    assert dropped["image-first"]["image"] > dropped["text-first"]["image"]
    assert dropped["image-first"]["text"] < dropped["text-first"]["text"]


def test_the_command_prints_families_and_compares_policies(evenmoe, folder, tmp_path):
    status, out, err = evenmoe(
        *("eval", folder, "--suite", "multimodal", "--tasks", "scenes", "--limit", 1, "--devices", 2),
        *("--policy", "baseline", "--policy", "token_drop:modality=image-first", "--gamma", 1.0),
        *("--out", tmp_path),
    )
    assert status == 0, err
    assert "relation_reasoning" in out
    assert "Token Drop (image-first)" in out
    assert len(list(tmp_path.rglob("eval.json"))) == 2
