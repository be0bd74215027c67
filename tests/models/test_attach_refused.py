"""What `attach` refuses, and that it then leaves the model alone."""

import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, ShapeError, UnsupportedModelError
from evenmoe.routing import Baseline, ExpandedDrop, TokenDrop
from tests.models.attach_reference import hooks_on, tiny_model


def test_a_dense_model_and_unsupported_architectures_are_refused():
    from transformers import LlamaConfig, LlamaForCausalLM, SwitchTransformersConfig, SwitchTransformersModel

    sizes = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    dense = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1))
    with pytest.raises(
        UnsupportedModelError, match=r"LlamaForCausalLM has no mixture-of-experts layer.*olmoe"
    ):
        evenmoe.attach(dense, Baseline())
    sizes = {
        "vocab_size": 16,
        "d_model": 8,
        "d_ff": 8,
        "num_layers": 2,
        "num_heads": 1,
        "num_experts": 2,
        "d_kv": 8,
    }
    switch = SwitchTransformersModel(SwitchTransformersConfig(**sizes))
    with pytest.raises(UnsupportedModelError, match=r"switch_transformers.*Supported: .*mixtral"):
        evenmoe.attach(switch, Baseline())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_devices": 0}, ConfigError, "num_devices"),
        ({"num_devices": 9}, ConfigError, "at most the 8 experts"),
        ({"num_devices": 1.5}, ConfigError, "num_devices"),
        ({"min_tokens": 0}, ConfigError, "min_tokens"),
        ({"phases": "all"}, ConfigError, "both, prefill, decode"),
        ({"seed": 0.5}, ConfigError, "seed"),
        ({"pad_token_id": "0"}, ConfigError, "pad_token_id"),
        ({"placement": [0] * 7}, ShapeError, "7 experts"),
        ({"placement": [[0] * 8] * 3}, ShapeError, "placement"),
        ({"placement": [[0] * 8, [0] * 7]}, ShapeError, "placement"),
        ({"placement": [0.5] * 8}, ConfigError, "placement"),
        ({"placement": [2] * 8, "num_devices": 2}, ConfigError, "different devices from 0 to 1"),
    ],
)
def test_options_that_cannot_act_are_refused(options, error, words):
    model = tiny_model("olmoe")
    with pytest.raises(error, match=words):
        evenmoe.attach(model, TokenDrop(gamma=1.0), **options)
    assert hooks_on(model) == 0
    with evenmoe.attach(model, Baseline()):
        pass


def test_a_policy_must_be_a_policy_and_modality_needs_a_vision_model():
    model = tiny_model("olmoe")
    with pytest.raises(ConfigError, match="policy"):
        evenmoe.attach(model, "token-drop")
    with pytest.raises(ConfigError, match="no image token"):
        evenmoe.attach(model, TokenDrop(gamma=1.0, modality="image-first"))


def test_the_resolved_options_are_data():
    model = tiny_model("olmoe")
    with evenmoe.attach(
        model, TokenDrop(gamma=2), num_devices=2, placement=torch.tensor([0, 1] * 4)
    ) as attached:
        described = attached.describe()
    assert described["gamma"] == 2.0
    assert described["num_devices"] == 2
    assert described["placement"] == [[0, 1] * 4] * 2


def test_expanded_drop_on_one_device_is_warned_about(caplog):
    model = tiny_model("olmoe")
    for num_devices, warned in ((1, True), (2, False)):
        caplog.clear()
        with evenmoe.attach(model, ExpandedDrop(gamma=1.0), num_devices=num_devices):
            assert ("expert-choice" in caplog.text) == warned
