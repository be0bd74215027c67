"""VLMEvalKit for real: its loop and its scoring around our model, on the scenes and on tables like its benchmarks."""

import base64
import csv
import hashlib
import io
import json
import logging
import ssl
from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from evenmoe.errors import ConfigError, EvenMoEError
from evenmoe.evaluation.ledger import JOURNAL_NAME
from evenmoe.evaluation.scenes import heldout_items
from evenmoe.evaluation.scoring import EvalConfig, read_eval_result, read_items
from evenmoe.evaluation.specs import parse_policy
from evenmoe.evaluation.vision.run import run_multimodal, run_scenes
from evenmoe.evaluation.vision.suites import BUNDLED_VLM, scene_tasks
from evenmoe.evaluation.vision.vlmevalkit import harness, register, run_vlmevalkit, write_tsv
from evenmoe.models.bundled import bundled_processor, load_bundled
from evenmoe.models.loading import load
from evenmoe.models.processing import load_processor
from tests.evaluation.vision.tiny_vlm import save_tiny_vlm

pytestmark = [
    pytest.mark.vlm,
    pytest.mark.skipif(
        find_spec("vlmeval") is None,
        reason="VLMEvalKit is not installed: tools/vlm_env/vlmevalkit.sh makes an environment that has it",
    ),
]
LIMIT, BATCH = 4, 16
NUM_ITEMS = LIMIT * 6


@pytest.fixture(scope="module", autouse=True)
def vlmeval():
    """VLMEvalKit, imported; gives what the process looked like before and after."""

    def state():
        return {
            "certificates": ssl._create_default_https_context,
            "gradients": torch.is_grad_enabled(),
            "random": torch.get_rng_state().tolist(),
            "handlers": logging.root.handlers[:],
            "level": logging.root.level,
            "disabled": logging.root.manager.disable,
        }

    before = state()
    harness.load_vlmeval()
    return before, state()


@pytest.fixture(scope="module")
def bundled():
    return load_bundled("vlm"), bundled_processor("vlm")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("tiny_vlm"))


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    return load(tiny_folder, dtype="float32"), load_processor(tiny_folder)


def config(model=BUNDLED_VLM, policy="baseline", gamma=None, **settings):
    common = {"tasks": ("vlmevalkit:scenes",), "limit": LIMIT, "batch_size": BATCH, "num_devices": 2}
    return EvalConfig(model=str(model), policy=parse_policy(policy), gamma=gamma, **(common | settings))


def items_of(out, result):
    return {task.task: read_items(out / task.items_file) for task in result.tasks}


def test_the_import_leaves_the_process_as_it_was(vlmeval):
    before, after = vlmeval
    assert before == after


@pytest.mark.parametrize(("policy", "gamma"), [("baseline", None), ("token_drop", 1.0)])
def test_the_scenes_score_as_they_do_without_a_harness_item_by_item(bundled, tmp_path, policy, gamma):
    ours = config(policy=policy, gamma=gamma, tasks=("scenes",))
    theirs = config(policy=policy, gamma=gamma)
    expected = run_scenes(ours, tmp_path / "ours", loaded=bundled)
    result = run_vlmevalkit(theirs, tmp_path / "theirs", loaded=bundled)
    assert [task.task for task in result.tasks] == list(scene_tasks())
    assert items_of(tmp_path / "theirs", result) == items_of(tmp_path / "ours", expected)
    assert [task.score for task in result.tasks] == [task.score for task in expected.tasks]
    assert [task.stderr for task in result.tasks] == pytest.approx([task.stderr for task in expected.tasks])
    assert result.loads == expected.loads
    assert (result.loads.drop_rate > 0.05) is (gamma is not None)
    assert (result.harness, result.label) == ("vlmevalkit", theirs.label)
    assert read_eval_result(tmp_path / "theirs") == result


def test_scores_are_those_of_vlmevalkits_own_table(bundled, tmp_path):
    result = run_vlmevalkit(config(), tmp_path, loaded=bundled)
    (table,) = (tmp_path / "vlmevalkit").glob("*_acc.csv")
    with table.open() as file:
        (figures,) = csv.DictReader(file)
    for task, family in scene_tasks().items():
        (score,) = (found.score for found in result.tasks if found.task == task)
        assert float(figures[family]) == pytest.approx(score)
    assert float(figures["Overall"]) == pytest.approx(result.mean)
    assert 1 / 6 < result.mean <= 1, "the bundled model answers these questions"
    setting = json.loads((tmp_path / "vlmevalkit" / "setting.json").read_text())
    assert setting["figures"]["scenes"]["Overall"] == pytest.approx(result.mean)


def test_an_infinite_gamma_is_the_baseline(bundled, tmp_path):
    runs = {}
    for name, policy, gamma in (("without", "baseline", None), ("infinite", "token_drop", float("inf"))):
        result = run_vlmevalkit(config(policy=policy, gamma=gamma), tmp_path / name, loaded=bundled)
        runs[name] = items_of(tmp_path / name, result), result.loads
    assert runs["without"] == runs["infinite"]
    assert runs["infinite"][1].drop_rate == 0


def test_whole_batches_run_though_vlmevalkit_asks_one_by_one(tiny, tiny_folder, tmp_path):
    rows = []

    def watch(_model, _args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:
            rows.append(len(kwargs["input_ids"]))

    handle = tiny[0].register_forward_pre_hook(watch, with_kwargs=True)
    announced = []
    try:
        result = run_vlmevalkit(
            config(tiny_folder),
            tmp_path,
            lambda *told: announced.append(told),
            prompts="question",
            loaded=tiny,
        )
    finally:
        handle.remove()
    assert rows == [16, 8]
    assert announced == [("scenes", 16, NUM_ITEMS), ("scenes", 24, NUM_ITEMS)]
    assert (result.batches["size"], result.batches["alone"]) == (16, 0)


def test_the_result_names_the_checkpoint_and_the_policy_in_force(tiny, tiny_folder, tmp_path):
    asked = config(tiny_folder, "token_drop:keep=random", 0.5, seed=3)
    result = run_vlmevalkit(asked, tmp_path, prompts="question", loaded=tiny)
    assert EvalConfig(**result.config) == asked
    setting = json.loads((tmp_path / "vlmevalkit" / "setting.json").read_text())
    assert EvalConfig(**setting["config"]) == asked
    told = setting["in_force"]
    assert told["checkpoint"] == str(tiny_folder)
    assert {name for name, *_ in told["files"]} >= {"model.safetensors", "config.json"}
    assert (told["policy"], told["gamma"], told["keep"]) == ("token_drop", 0.5, "random")
    assert (told["num_devices"], told["seed"]) == (2, 3)


def test_predictions_of_another_policy_are_not_taken_up(tiny, tiny_folder, tmp_path):
    asked = config(tiny_folder, "token_drop", 0.5)
    fresh = run_vlmevalkit(asked, tmp_path / "fresh", prompts="question", loaded=tiny)
    run_vlmevalkit(config(tiny_folder), tmp_path / "used", prompts="question", loaded=tiny)
    for file in (tmp_path / "used" / "vlmevalkit").glob("*.xlsx"):
        asked_name = next((tmp_path / "fresh" / "vlmevalkit").glob("*scenes.xlsx")).name
        file.rename(file.with_name(asked_name))  # as if one setting's answers were filed under another's name
    again = run_vlmevalkit(asked, tmp_path / "used", prompts="question", loaded=tiny)
    assert again.fingerprint_bytes() == fresh.fingerprint_bytes()
    assert items_of(tmp_path / "used", again) == items_of(tmp_path / "fresh", fresh)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny, tiny_folder, tmp_path):
    asked = config(tiny_folder, "token_drop:keep=random", 0.5)
    whole = run_vlmevalkit(asked, tmp_path / "whole", prompts="question", loaded=tiny)

    def interrupt(_label, _done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_vlmevalkit(asked, tmp_path / "cut", interrupt, prompts="question", loaded=tiny)
    assert (tmp_path / "cut" / JOURNAL_NAME).exists()
    assert not (tmp_path / "cut" / "eval.json").exists()
    resumed = run_vlmevalkit(asked, tmp_path / "cut", prompts="question", loaded=tiny)
    assert resumed.fingerprint_bytes() == whole.fingerprint_bytes()
    assert items_of(tmp_path / "cut", resumed) == items_of(tmp_path / "whole", whole)


def test_a_registered_model_runs_in_vlmevalkits_own_loop_in_batches(tiny_folder, tmp_path, monkeypatch):
    from vlmeval.config import supported_VLM
    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import load as load_sheet

    monkeypatch.setenv("LMUData", str(tmp_path))
    write_tsv(tmp_path / "my_scenes.tsv", heldout_items(LIMIT))
    options = {"policy": "token_drop", "gamma": 0.5, "devices": 2, "batch_size": BATCH, "prompts": "question"}
    name = register(pretrained=str(tiny_folder), report=tmp_path / "report", **options)
    model = infer_data_job(name, work_dir=str(tmp_path), model_name=name, dataset=build_dataset("my_scenes"))
    assert name in supported_VLM
    assert (model.num_alone, model.batches["size"]) == (0, BATCH)
    assert model.in_force["checkpoint"] == str(tiny_folder)
    assert (model.in_force["policy"], model.in_force["gamma"]) == ("token_drop", 0.5)
    sheet = load_sheet(str(tmp_path / f"{name}_my_scenes.xlsx"))
    assert list(sheet["index"]) == [item.id for item in heldout_items(LIMIT)]

    reference = config(tiny_folder, "token_drop", 0.5, tasks=("scenes",))
    model.close()
    result = run_multimodal(reference, tmp_path / "ours")
    ours = {row.item: row.answer for rows in items_of(tmp_path / "ours", result).values() for row in rows}
    assert model.said == ours
    assert model.loads.drop_rate == pytest.approx(result.loads.drop_rate)
    report = json.loads((tmp_path / "report" / "my_scenes.json").read_text())
    assert report["in_force"]["checkpoint"] == str(tiny_folder)
    assert report["loads"] == result.loads.model_dump(mode="json")
    assert report["batches"]["size"] == BATCH


def test_a_question_of_no_benchmark_is_a_batch_of_its_own(tiny_folder, tmp_path, caplog):
    from vlmeval.config import supported_VLM

    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    model = supported_VLM[register(pretrained=str(tiny_folder), max_new_tokens=3)]()
    try:
        asked = [{"type": "image", "value": str(picture)}, {"type": "text", "value": "w20 w21"}]
        answers = [model.generate(message=asked) for _ in range(2)]
    finally:
        model.close()
    assert answers[0] == answers[1] != ""
    assert model.num_alone == model.batches["alone"] == 2
    assert [record.levelname for record in caplog.records if "batch of its own" in record.message] == [
        "WARNING"
    ]


@pytest.mark.parametrize("settings", [{"isolation": "strict", "phases": "prefill"}, {}])
def test_asking_alone_makes_no_difference_to_requests_that_are_isolated(
    tiny, tiny_folder, tmp_path, settings
):
    from evenmoe.evaluation.vision.vlmevalkit.benchmarks import open_scenes
    from evenmoe.evaluation.vision.vlmevalkit.wrapper import EvenMoEVLM

    def ask(model, benchmark, dump_image):
        model.set_dump_image(dump_image)
        rows = [benchmark.data.iloc[place] for place in range(len(benchmark.data))]
        asked = [benchmark.build_prompt(row) for row in rows]
        return [model.generate(message=message, dataset=benchmark.dataset_name) for message in asked]

    asked = config(tiny_folder, "token_drop", 0.5, num_devices=1, **settings)
    model = EvenMoEVLM(asked, max_new_tokens=1, loaded=tiny)
    try:
        with open_scenes("some_scenes", heldout_items(LIMIT)) as benchmark:
            together = ask(model, benchmark, benchmark.dump_image)
            assert model.num_alone == 0
            alone = ask(model, benchmark, lambda line: benchmark.dump_image(line))
            assert model.num_alone == NUM_ITEMS
    finally:
        model.close()
    assert (together == alone) is bool(settings)


def test_unknown_options_and_several_processes_are_refused(tiny_folder, monkeypatch):
    from vlmeval.config import supported_VLM

    with pytest.raises(ConfigError, match="capacity"):
        register(pretrained=str(tiny_folder), capacity=1)
    with pytest.raises(ConfigError, match="prompts"):
        supported_VLM[register(pretrained=str(tiny_folder), prompts="letters")]()
    with pytest.raises(ConfigError, match="max_new_tokens"):
        supported_VLM[register(pretrained=str(tiny_folder), max_new_tokens=0)]()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        supported_VLM[register(pretrained=str(tiny_folder))]()


@pytest.mark.parametrize("name", ["MMBench_DEV_EN", "MME", "no_such_benchmark"])
def test_a_benchmark_that_is_not_there_is_told_offline_before_a_model_is_loaded(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EvenMoEError, match=rf"{name}: .*{name}\.tsv.*HF_HUB_OFFLINE"):
        run_vlmevalkit(config("nowhere", tasks=(f"vlmevalkit:{name}",)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def table(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return hashlib.md5(path.read_bytes()).hexdigest()


def image(colour):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def answering(right):
    """A model of VLMEvalKit's own kind that says what is right to the questions named, and nonsense else."""
    from vlmeval.vlm.base import BaseModel

    class Scripted(BaseModel):
        def generate_inner(self, message, dataset=None):
            text = message[-1]["value"]
            return next((answer for question, answer in right.items() if question in text), "perhaps")

    return Scripted()


def test_circular_multiple_choice_is_scored_as_vlmevalkit_does(tmp_path, monkeypatch):
    """MMBench asks each question once per rotation of its options; only all right is a hit."""
    from vlmeval.dataset import ImageMCQDataset
    from vlmeval.inference import infer_data_job

    from evenmoe.evaluation.vision.vlmevalkit import records
    from evenmoe.evaluation.vision.vlmevalkit.benchmarks import open_benchmark

    monkeypatch.setenv("LMUData", str(tmp_path))
    rows = [
        {
            "index": turn * 1_000_000 + number,
            "question": f"number {number} turn {turn}?",
            "answer": "AB"[turn],
        }
        | {
            "A": ("yes", "no")[turn],
            "B": ("no", "yes")[turn],
            "category": "c",
            "l2-category": "relation_reasoning",
        }
        | {"split": "dev", "image": image((number * 9, turn * 9, 0))}
        for turn in (0, 1)
        for number in range(4)
    ]
    monkeypatch.setitem(
        ImageMCQDataset.DATASET_MD5, "MMBench_DEV_EN", table(tmp_path / "MMBench_DEV_EN.tsv", rows)
    )
    benchmark = open_benchmark("MMBench_DEV_EN", None)
    right = {row["question"]: row["answer"] for row in rows if row["question"] != "number 2 turn 1?"}
    infer_data_job(answering(right), work_dir=str(tmp_path), model_name="scripted", dataset=benchmark)
    found = records.evaluate(benchmark, tmp_path, "scripted")
    (scored,) = records.scored("MMBench_DEV_EN", found, dict.fromkeys(map(str, benchmark.data["index"]), ""))
    assert [(item.item, item.score) for item in scored.items] == [("0", 1), ("1", 1), ("2", 0), ("3", 1)]
    assert {item.group for item in scored.items} == {"relation_reasoning"}
    assert scored.score.score == found.figures["Overall"] == found.figures["RR"] == 0.75


def test_mme_gives_its_two_scores(tmp_path, monkeypatch):
    """Accuracy and accuracy by pairs, in percent, summed: of six answers five are right, of three pairs two."""
    from vlmeval.dataset import ImageYORNDataset
    from vlmeval.inference import infer_data_job

    from evenmoe.evaluation.vision.vlmevalkit import records
    from evenmoe.evaluation.vision.vlmevalkit.benchmarks import open_benchmark

    monkeypatch.setenv("LMUData", str(tmp_path))
    rows = [
        {
            "index": 6 * part + 2 * number + turn,
            "question": f"{category} {number} {turn}?",
            "category": category,
        }
        | {
            "answer": ("Yes", "No")[turn],
            "image_path": f"{category}_{number}.png",
            "image": image((number, part, 0)),
        }
        for part, category in enumerate(("count", "code_reasoning"))
        for number in range(3)
        for turn in (0, 1)
    ]
    monkeypatch.setitem(ImageYORNDataset.DATASET_MD5, "MME", table(tmp_path / "MME.tsv", rows))
    benchmark = open_benchmark("MME", None)
    right = {row["question"]: f"{row['answer']}." for row in rows if row["question"] != "count 1 1?"}
    infer_data_job(answering(right), work_dir=str(tmp_path), model_name="scripted", dataset=benchmark)
    found = records.evaluate(benchmark, tmp_path, "scripted")
    scored = records.scored("MME", found, dict.fromkeys(map(str, benchmark.data["index"]), ""))
    assert [one.score.task for one in scored] == ["MME_perception", "MME_reasoning"]
    assert [one.score.score for one in scored] == pytest.approx([500 / 6 + 200 / 3, 200])
    assert [sum(item.score for item in one.items) for one in scored] == [5, 6]
    assert [one.score.num_items for one in scored] == [6, 6]


def test_letters_are_what_vlmevalkit_reads_as_that_option():
    from vlmeval.utils import can_infer

    from evenmoe.evaluation.vision.vlmevalkit.messages import lettered

    options = {"A": "1", "B": "2", "C": "12"}
    for answer, letter in (("1", "A"), ("2", "B"), ("12", "C"), ("21", "Z")):
        said = lettered(answer, [{"type": "text", "value": "", "options": options}])
        assert can_infer(said, dict(options)) == letter
    assert not can_infer("12", dict(options)), "VLMEvalKit finds three options in the bare word"


def test_torchvision_imports_and_tells_when_an_operator_is_missing():
    import torchvision

    if torchvision.extension._has_ops():
        pytest.skip("this torchvision has its operators")
    small = torchvision.transforms.functional.resize(torch.zeros(3, 8, 8), [4, 4], antialias=True)
    assert small.shape == (3, 4, 4)
    with pytest.raises(RuntimeError, match="custom C\\+\\+ ops"):
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
