"""The tiny models: small, deterministic, offline, and refused clearly where they cannot be built."""

from __future__ import annotations

import socket

import pytest
import torch

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.models.tiny import (
    IMAGE_FORMATS,
    build,
    is_installed,
    tiny_config,
    tiny_inputs,
    tiny_model,
)
from evenmoe.models.tiny.defaults import IMAGE_ID, NUM_EXPERTS, PAD_ID, TOP_K

SAMPLE = ("olmoe", "deepseek_v3", "jamba", "qwen3_vl_moe")


@pytest.mark.parametrize("model_type", SAMPLE)
def test_same_seed_same_weights(model_type: str) -> None:
    one, same, other = (tiny_model(model_type, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    tiny_model("olmoe", seed=9)
    tiny_inputs("olmoe", seed=9)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_is_small_float32_and_in_eval_mode(model_type: str) -> None:
    model = tiny_model(model_type)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) < 500_000


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tiny_model("mixtral")


def test_loads_are_uneven() -> None:
    model, inputs = tiny_model("olmoe"), tiny_inputs("olmoe", batch=8, length=64)
    logits = model(**inputs, output_router_logits=True).router_logits[0]
    load_E = torch.bincount(logits.topk(TOP_K).indices.reshape(-1), minlength=NUM_EXPERTS)
    assert load_E.max() > 1.3 * load_E.float().mean()


def test_overrides() -> None:
    assert tiny_config("olmoe", num_experts=16).num_experts == 16
    config = tiny_config("qwen3_vl_moe", text_config={"num_experts": 16})
    assert config.text_config.num_experts == 16
    assert config.text_config.rope_parameters["mrope_section"] == [2, 1, 1], "the table's row is kept beside"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="olmoe"):
        tiny_model("no_such_model")
    with pytest.raises(ConfigError, match="olmoe"):
        tiny_inputs("no_such_model")
    with pytest.raises(ConfigError, match=r"num_exprets.*field of OlmoeConfig"):
        tiny_model("olmoe", num_exprets=3)
    with pytest.raises(ConfigError, match=r"olmoe.text_config|field of"):
        tiny_model("olmoe", text_config={})


def test_absent_architecture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_installed", lambda _name: False)
    with pytest.raises(UnsupportedModelError, match="not in this transformers"):
        tiny_model("olmoe")


def test_padding_columns() -> None:
    inputs, padded = tiny_inputs("olmoe", 2, 10), tiny_inputs("olmoe", 2, 10, pad=3)
    assert padded["input_ids"].shape == (2, 13)
    assert torch.equal(padded["input_ids"][:, :10], inputs["input_ids"])
    assert (padded["input_ids"][:, 10:] == PAD_ID).all()
    assert padded["attention_mask"].sum(1).tolist() == [10, 10]


@pytest.mark.parametrize("model_type", sorted(IMAGE_FORMATS))
def test_images_reach_the_logits(model_type: str) -> None:
    if not is_installed(model_type):
        pytest.skip("not in this transformers version")
    length = max(28, IMAGE_FORMATS[model_type].num_tokens + 4)
    model, inputs = tiny_model(model_type), tiny_inputs(model_type, 2, length, images=True)
    assert (inputs["input_ids"] == IMAGE_ID).sum(1).tolist() == [IMAGE_FORMATS[model_type].num_tokens] * 2
    with torch.inference_mode():
        logits = model(**inputs).logits
        other = model(**inputs | {"pixel_values": inputs["pixel_values"].flip(0)}).logits
    assert bool(logits.isfinite().all())
    assert not torch.equal(logits, other)


def test_images_are_refused_where_they_cannot_act() -> None:
    with pytest.raises(ConfigError, match="qwen3_vl_moe"):
        tiny_inputs("olmoe", images=True)
    with pytest.raises(ConfigError, match="at least 20"):
        tiny_inputs("qwen3_vl_moe", length=8, images=True)
