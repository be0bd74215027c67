"""Which device's share a window joins: by true and by predicted loads, on the same windows of a tiny model."""

import json
import shutil

import numpy as np
import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation import sweep as sweep_module
from evenmoe.evaluation.batches import make_batches
from evenmoe.evaluation.config import SweepConfig
from evenmoe.evaluation.quality import measure_quality
from evenmoe.evaluation.shares import assign_shares
from evenmoe.evaluation.specs import parse_policies
from evenmoe.evaluation.sweep import run_sweep
from evenmoe.evaluation.texts import cut_windows, read_texts
from evenmoe.models.attach import attach
from evenmoe.models.prediction import learn_token_prior
from evenmoe.routing import TokenDrop
from evenmoe.scheduling import assign

DEVICES, BATCH = 4, 8


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    return model, AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def windows(loaded, text_files):
    return cut_windows(read_texts(text_files), loaded[1], num_windows=2 * BATCH, window_tokens=24)


@pytest.fixture(scope="module")
def batches(windows):
    return make_batches(windows, BATCH, "by-domain", seed=0)


@pytest.fixture(scope="module")
def prior(loaded, windows, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "prior.npz"
    learn_token_prior(loaded[0], [window.ids_S for window in windows]).save(path)
    return str(path)


def config(**changes) -> SweepConfig:
    settings = {
        "model": "tiny",
        "policies": parse_policies(["token_drop", "fill"]),
        "gammas": (1.0,),
        "texts": ("numbers", "words"),
        "num_devices": DEVICES,
        "num_windows": 2 * BATCH,
        "window_tokens": 24,
        "batch_size": BATCH,
        "mix": "by-domain",
    }
    return SweepConfig(**(settings | changes))


def choices(prior):
    return {
        "arrival": {},
        "random": {"assign": "random"},
        "true": {"assign": "balanced", "loads_from": "true"},
        "predicted": {"assign": "balanced", "loads_from": "predicted", "prior": prior},
    }


def test_the_baseline_is_the_same_and_balanced_drops_less(loaded, text_files, prior, tmp_path):
    rows = {}
    for name, choice in choices(prior).items():
        results = run_sweep(config(**choice), *loaded, read_texts(text_files), tmp_path / name)
        assert {**choice, **results.config} == results.config, "the choice is saved with the results"
        rows[name] = results.rows
    for name, (base, *_) in rows.items():
        assert base.bits_per_byte == rows["arrival"][0].bits_per_byte, name
        assert base.straggler_factor == rows["arrival"][0].straggler_factor, "experts see the whole batch"
    token_drop = {name: by_policy[1].drop_rate for name, by_policy in rows.items()}
    assert token_drop["true"] < token_drop["arrival"]
    assert token_drop["predicted"] < token_drop["arrival"]


def test_true_loads_are_those_of_each_window_alone(loaded, batches):
    model, _ = loaded
    shares = assign_shares(config(**choices("")["true"]), model, batches)
    for batch, devices in zip(batches, shares, strict=True):
        loads = []
        for window in batch:
            with attach(model, TokenDrop(gamma=float("inf"))) as attached:
                measure_quality(model, [[window]], attached)
            loads.append(attached.loads.total.before_LE.reshape(-1))
        assert devices == assign(loads, num_devices=DEVICES).tolist()


def test_a_window_runs_on_the_device_it_was_given(loaded, batches):
    """Shares of any order give what contiguous shares give when the rows are put in that order."""
    model, _ = loaded
    devices = [row % DEVICES for row in range(BATCH)]
    order = np.argsort(devices, kind="stable")
    with attach(model, TokenDrop(gamma=1.0), num_devices=DEVICES) as attached:
        given = measure_quality(model, batches, attached, shares=[devices] * len(batches))
        drop_rate = attached.loads.drop_rate
    sorted_batches = [[batch[row] for row in order] for batch in batches]
    with attach(model, TokenDrop(gamma=1.0), num_devices=DEVICES) as attached:
        expected = measure_quality(model, sorted_batches, attached)
        assert attached.loads.drop_rate == drop_rate
    rows = np.concatenate([order, BATCH + order])
    np.testing.assert_allclose(given.bits_B[rows], expected.bits_B, rtol=1e-5)


def test_random_shares_come_from_the_seed(loaded, batches):
    def drawn(seed):
        return assign_shares(config(assign="random", seed=seed), loaded[0], batches)

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0)[0] != drawn(0)[1], "each batch is drawn anew"
    assert all(sorted(devices) == sorted(list(range(DEVICES)) * 2) for devices in drawn(0))


def test_an_interrupted_sweep_goes_on_with_the_same_shares(loaded, text_files, tmp_path, monkeypatch):
    texts, changed = read_texts(text_files), config(**choices("")["true"])
    run_sweep(changed, *loaded, texts, tmp_path / "whole")
    original = sweep_module._measure

    def interrupted(point, *arguments):
        if point.spec.name == "fill":
            raise KeyboardInterrupt
        return original(point, *arguments)

    monkeypatch.setattr(sweep_module, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(changed, *loaded, texts, tmp_path / "cut")
    monkeypatch.undo()
    run_sweep(changed, *loaded, texts, tmp_path / "cut")
    whole, cut = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "cut"))
    for row in whole["rows"] + cut["rows"]:
        del row["seconds"]
    assert whole == cut


def test_another_prior_under_the_same_name_is_another_configuration(
    loaded, text_files, prior, tmp_path, monkeypatch
):
    path = tmp_path / "prior.npz"
    shutil.copyfile(prior, path)
    changed = config(assign="balanced", loads_from="predicted", prior=str(path))
    texts = read_texts(text_files)
    monkeypatch.setattr(sweep_module, "write_loads", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_sweep(changed, *loaded, texts, tmp_path / "out")
    header = json.loads((tmp_path / "out" / "rows.partial.jsonl").read_text().splitlines()[0])
    assert header["config"]["prior"] == str(path)
    learn_token_prior(loaded[0], [np.arange(24)]).save(path)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(changed, *loaded, texts, tmp_path / "out")
    anew = json.loads((tmp_path / "out" / "rows.partial.jsonl").read_text().splitlines()[0])
    assert anew["config"]["prior_sha256"] != header["config"]["prior_sha256"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"assign": "balanced"}, "loads_from"),
        ({"assign": "random", "loads_from": "true"}, "loads_from"),
        ({"assign": "balanced", "loads_from": "predicted"}, "prior"),
        ({"assign": "balanced", "loads_from": "true", "prior": "prior.npz"}, "prior"),
        ({"assign": "random", "num_devices": 1}, "assign"),
    ],
)
def test_a_setting_that_cannot_act_is_refused(changes, field):
    from evenmoe.cli.running import make_config

    with pytest.raises(ConfigError) as error:
        make_config(**(config().model_dump() | changes))
    assert error.value.field == field


def test_a_prior_of_another_model_or_no_file_is_refused(loaded, batches, tmp_path):
    from evenmoe.scheduling.predictors import TokenPrior

    table = {"layer": np.array([0]), "expert": np.array([0]), "token": np.array([5]), "count": np.array([2])}
    path = TokenPrior.from_token_tables([table], num_experts=4, top_k=1).save(tmp_path / "other.npz")
    changed = config(assign="balanced", loads_from="predicted", prior=str(path))
    with pytest.raises(ConfigError, match="2 layers of 8"):
        assign_shares(changed, loaded[0], batches)


def test_the_command_says_by_which_loads(evenmoe, tiny_checkpoint, text_files, prior, tmp_path):
    small = ["--windows", 8, "--window-tokens", 24, "--batch-size", 4, "--devices", 4, "--policy", "fill"]
    texts = [argument for path in text_files for argument in ("--text", path)]
    given = [
        "sweep",
        tiny_checkpoint,
        *texts,
        *small,
        "--gamma",
        1,
        "--out",
        tmp_path,
        "--assign",
        "balanced",
    ]
    assert "shares balanced by true loads" in evenmoe(*given)[1]
    assert "shares balanced by predicted loads" in evenmoe(*given, "--prior", prior)[1]
    saved = json.loads((tmp_path / "results.json").read_text())["config"]
    assert (saved["assign"], saved["loads_from"], saved["prior"]) == ("balanced", "predicted", prior)
    status, _, err = evenmoe(*given, "--prior", tmp_path / "absent.npz")
    assert status == 2
    assert "absent.npz" in err
    status, _, err = evenmoe(*given[:-2], "--loads-from", "true")
    assert status == 2
    assert "loads_from" in err
