"""MACS on models: features, labels, calibration, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, FileFormatError, ShapeError
from evenmoe.loads import ExpertLoads, LoadCounts
from evenmoe.models import features
from evenmoe.models.features import feature_entropy
from evenmoe.models.modality import calibrate_modality, label_experts, modality_ratio
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.routing import (
    Baseline,
    ExpertModality,
    Macs,
    RoutingContext,
    TokenDrop,
    read_expert_modality,
    write_expert_modality,
)
from tests.models.attach_reference import watch

MODEL_TYPE = "qwen3_vl_moe"


@pytest.fixture(scope="module")
def model():
    return tiny_model(MODEL_TYPE)


@pytest.fixture(scope="module")
def inputs():
    return tiny_inputs(MODEL_TYPE, 4, 28, images=True)


@pytest.fixture(scope="module")
def labels(model, inputs):
    return calibrate_modality(model, [inputs], threshold=1.5)


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def test_entropy_by_hand():
    hidden = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -1000.0, -1000.0], [1000.0, 0.0, 0.0, 0.0]]
    )
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.0]
    assert feature_entropy(hidden).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_entropy_is_that_of_the_softmax(dtype, monkeypatch):
    hidden = (3 * torch.randn(2, 13, 24, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = torch.distributions.Categorical(logits=hidden.double().reshape(26, 24)).entropy()
    whole = feature_entropy(hidden)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole.double(), expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(features, "_ENTRIES_ON_CPU", 24 * 5)  # five tokens at a time
    assert torch.equal(feature_entropy(hidden), whole)


def test_without_a_limit_it_is_the_plain_model(model, inputs, labels):
    plain = logits(model, inputs)
    for policy in (Macs(gamma=math.inf), Macs(gamma=math.inf, labels=labels), Macs(gamma=1000.0, rho=0)):
        with evenmoe.attach(model, policy, num_devices=2):
            assert torch.equal(logits(model, inputs), plain)


def test_a_model_keeps_what_the_policy_keeps(model, inputs, labels):
    """The entropy is that of the hidden states that enter the layer's experts; labels are those of the layer."""
    entered = []
    blocks = [layer.mlp.experts for layer in model.model.language_model.layers]
    handles = [
        block.register_forward_pre_hook(lambda _block, args: entered.append(args[0])) for block in blocks
    ]
    policy = Macs(gamma=0.5, labels=labels, rho=1.0)
    with evenmoe.attach(model, policy, num_devices=2) as attached, watch(attached) as steps:
        logits(model, inputs)
    for handle in handles:
        handle.remove()
    for layer, (step, hidden) in enumerate(zip(steps, entered, strict=True)):
        entropy_T = torch.distributions.Categorical(logits=hidden.float()).entropy()
        ctx = RoutingContext(
            num_devices=2,
            device_of_token_T=step.tokens.device_T,
            image_T=step.tokens.image_T,
            entropy_T=entropy_T,
            modality_E=torch.tensor(labels.signs(layer)),
        )
        assert torch.equal(step.kept_TE, policy.keep(step.scores_TE, step.chosen_TE, ctx))
        assert not torch.equal(step.kept_TE, step.chosen_TE)
    assert attached.describe()["labels"] == labels.describe()


def test_features_are_read_only_where_a_policy_asks(model, inputs, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "evenmoe.models.layer.feature_entropy", lambda hidden: calls.append(hidden) or feature_entropy(hidden)
    )
    for policy in (Baseline(), TokenDrop(gamma=1, modality="image-first"), Macs(gamma=math.inf)):
        with evenmoe.attach(model, policy):
            logits(model, inputs)
    assert calls == []
    with evenmoe.attach(model, Macs(gamma=1, rho=0)):
        logits(model, inputs)
    assert len(calls) == 2


@pytest.mark.parametrize("model_type", ["llama4", "jetmoe", "ernie4_5_vl_moe", "gemma4"])
def test_other_kinds_of_layers_give_their_features(model_type, monkeypatch):
    images = model_type != "jetmoe"
    other = tiny_model(model_type)
    given = tiny_inputs(model_type, 4, 28, images=images)
    if not images:  # a text model with an image token of its own
        other.config.image_token_id = int(given["input_ids"][0, 3])
    with evenmoe.attach(other, Macs(gamma=0.5, rho=0), num_devices=2) as attached:
        logits(other, given)
    assert attached.loads.drop_rate > 0


def test_labels_by_hand():
    def counts(before) -> LoadCounts:
        return LoadCounts.undropped(np.array(before), top_k=1)

    image, text = [[37, 7, 1, 3], [0, 0, 20, 0]], [[1, 7, 13, 3], [5, 5, 5, 5]]
    loads = ExpertLoads(
        layers=("0", "1"),
        num_experts_L=np.array([4, 4]),
        top_k=1,
        total=counts(np.add(image, text)),
        by_tag={"image": counts(image), "text": counts(text)},
    )
    # Layer 0: 48 image and 24 text pairs, with one more each 52 and 28: shares 38/52 : 2/28, 8/52 : 8/28, ...
    expected = [[38 / 52 * 28 / 2, 28 / 52, 2 / 52 * 28 / 14, 28 / 52], [0.04167 * 4] * 2 + [3.5, 0.16667]]
    np.testing.assert_allclose(modality_ratio(loads), expected, rtol=1e-3)
    assert label_experts(loads).rows == (
        ("visual", "shared", "text", "shared"),
        ("text", "text", "visual", "text"),
    )
    assert label_experts(loads, threshold=1.5).rows[0] == ("visual", "text", "text", "text")
    assert "threshold 1.5, 48 image and 24 text tokens" in label_experts(loads, threshold=1.5).method


def test_calibration_needs_both(model, inputs):
    text = tiny_inputs(MODEL_TYPE, 2, 20)
    with pytest.raises(ConfigError, match="no image token"):
        calibrate_modality(model, [text])
    with pytest.raises(ConfigError, match="threshold = 1 "):
        calibrate_modality(model, [inputs], threshold=1)
    with pytest.raises(ConfigError, match="names no image token"):
        calibrate_modality(tiny_model("olmoe"), [tiny_inputs("olmoe")])


def test_experts_that_serve_one_modality_are_found():
    """ernie has experts of its own for text, which no image token reaches: calibration finds what its makers say."""
    model_type = "ernie4_5_vl_moe"
    found = calibrate_modality(tiny_model(model_type), [tiny_inputs(model_type, 8, 40, images=True)])
    rows = {name.rpartition(".")[2]: row for name, row in zip(found.layers, found.rows, strict=True)}
    assert set(rows["text_moe"]) == {"text"}
    assert "visual" in rows["vision_moe"]


def test_labels_file(tmp_path, labels):
    path = write_expert_modality(labels, tmp_path / "new" / "labels.json")
    assert read_expert_modality(path) == labels
    first = path.read_bytes()
    assert write_expert_modality(read_expert_modality(path), path).read_bytes() == first
    assert [item.name for item in path.parent.iterdir()] == ["labels.json"], "nothing half-written remains"
    assert labels.signs(0) == [{"visual": 1, "text": -1, "shared": 0}[label] for label in labels.rows[0]]
    with pytest.raises(FileNotFoundError):
        read_expert_modality(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("evenmoe.expert_modality", "evenmoe.placement", "format 'evenmoe.placement' version 1"),
        ('"version": 1', '"version": 2', "version 2"),
        ('"method"', '"methods"', r"lacks \['method'\]"),
        ('"shared"', '"both"', "modality_of_expert = 'both' is not allowed: one of visual, text, shared"),
        ('"shared"', "3", "a list of such lists"),
        ('"layers": [', '"layers": ["more", ', "2 rows of labels for 3 layers"),
        ("{", "[", "not a file of expert labels"),
    ],
)
def test_a_damaged_labels_file_is_refused(tmp_path, old, new, message):
    labels = ExpertModality.of(["0", "1"], [["visual", "shared"], ["text", "text"]], "by hand")
    path = write_expert_modality(labels, tmp_path / "labels.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=message):
        read_expert_modality(path)


def test_labels_of_another_model_are_refused(model, tmp_path):
    other = ExpertModality.of(["layers.0", "layers.1"], [["text"] * 8] * 2)
    with pytest.raises(
        ShapeError, match=r"labels are for the MoE layers layers\.0, layers\.1; the model has"
    ):
        evenmoe.attach(model, Macs(gamma=1, labels=other))
    names = [f"model.language_model.layers.{layer}.mlp" for layer in range(2)]
    path = write_expert_modality(
        ExpertModality.of(names, [["text"] * 8, ["text"] * 7]), tmp_path / "labels.json"
    )
    with pytest.raises(ShapeError, match="has 8 experts, but labels for 7"):
        evenmoe.attach(model, Macs(gamma=1, labels=path))
    with pytest.raises(FileNotFoundError):
        evenmoe.attach(model, Macs(gamma=1, labels=tmp_path / "absent.json"))
    with pytest.raises(ConfigError, match="calibrate-modality"):
        evenmoe.attach(model, Macs(gamma=1))


def test_macs_in_words(tmp_path, labels):
    from evenmoe.evaluation.specs import parse_policy

    path = write_expert_modality(labels, tmp_path / "labels.json")
    spec = parse_policy(f"macs:labels={path},delta=2,edge=across")
    assert spec.build(1.5) == Macs(gamma=1.5, labels=path, delta=2, edge="across")
    assert spec.family == "MACS (across)"
    with pytest.raises(ConfigError, match="they would not act"):
        parse_policy(f"macs:labels={path},rho=0")


@pytest.mark.parametrize(("modality", "loses"), [("image-first", True), ("text-first", False)])
def test_modality_order_holds_in_every_bin(model, inputs, modality, loses):
    with (
        evenmoe.attach(model, TokenDrop(gamma=0.5, modality=modality), num_devices=2) as attached,
        watch(attached) as steps,
    ):
        logits(model, inputs)
    for step in steps:
        first_T = step.tokens.image_T == loses
        for device in range(2):
            here_T = step.tokens.device_T == device
            kept_first = (step.kept_TE & (first_T & here_T)[:, None]).any(0)
            lost_last = (step.chosen_TE & ~step.kept_TE & (~first_T & here_T)[:, None]).any(0)
            assert not (kept_first & lost_last).any()
