"""Loads of image and of text tokens, counted apart, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import ExpertLoads, LoadCounts, read_loads, write_loads
from evenmoe.loads.modality import loads_by_modality, merged_tags, modality_profile
from evenmoe.models.batch import CallReader
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.tiny import tiny_inputs, tiny_model
from evenmoe.routing import Baseline, TokenDrop
from tests.models.attach_reference import forward, ids_of, watch

MODEL_TYPE = "qwen3_vl_moe"


@pytest.fixture(scope="module")
def model():
    return tiny_model(MODEL_TYPE)


@pytest.fixture(scope="module")
def inputs():
    return tiny_inputs(MODEL_TYPE, 4, 28, images=True, pad=3)


def test_the_two_sum_to_the_total(model, inputs):
    with evenmoe.attach(model, TokenDrop(gamma=0.7), num_devices=2, split="modality") as attached:
        with watch(attached) as steps, torch.no_grad():
            model(**inputs)
        loads = attached.loads
    assert set(loads.by_tag) == {"image", "text"}
    parts = loads_by_modality(loads)
    for name, total in loads.total.arrays().items():
        np.testing.assert_allclose(parts.image.arrays()[name] + parts.text.arrays()[name], total, rtol=1e-12)
    assert parts.image.tokens_L.tolist() == [4 * 16] * 2
    assert parts.text.tokens_L.tolist() == [4 * 12] * 2
    for layer, step in enumerate(steps):
        image_T = step.tokens.image_T
        assert parts.image.after_LE[layer].tolist() == step.kept_TE[image_T].sum(0).tolist()
        assert parts.text.before_LE[layer].tolist() == step.chosen_TE[~image_T].sum(0).tolist()


def test_with_tags_of_ones_own(model, inputs, tmp_path):
    with evenmoe.attach(model, Baseline(), split="modality") as attached, torch.no_grad():
        with attached.tagged(["a", "b/c", "a", "a"]):
            model(**inputs)
        split = attached.loads
    with evenmoe.attach(model, Baseline()) as attached, torch.no_grad():
        with attached.tagged(["a", "b/c", "a", "a"]):
            model(**inputs)
        plain = attached.loads
    assert set(split.by_tag) == {"a/image", "a/text", "b/c/image", "b/c/text"}
    merged = merged_tags(read_loads(write_loads(split, tmp_path / "loads.json")))
    assert set(merged.by_tag) == {"a", "b/c"}
    for tag, counts in merged.by_tag.items():
        for name, values in counts.arrays().items():
            np.testing.assert_allclose(values, plain.by_tag[tag].arrays()[name], rtol=1e-12)
    assert loads_by_modality(split, "b/c").image.tokens_L.tolist() == [16, 16]
    with pytest.raises(ConfigError, match=r"tag = 'd' is not allowed: one of: a, b/c"):
        loads_by_modality(split, "d")
    with pytest.raises(ConfigError, match="split='modality'"):
        loads_by_modality(plain)
    with pytest.raises(ConfigError, match="split='modality'"):
        merged_tags(plain)


def test_generated_tokens_are_text(model, inputs):
    with evenmoe.attach(model, Baseline(), split="modality") as attached:
        model.generate(
            **tiny_inputs(MODEL_TYPE, 4, 28, images=True), max_new_tokens=4, min_new_tokens=4, do_sample=False
        )
    parts = loads_by_modality(attached.loads)
    assert parts.image.tokens_L.tolist() == [4 * 16] * 2
    assert parts.text.tokens_L.tolist() == [4 * (12 + 3)] * 2  # the last token is never fed


def test_a_generated_placeholder_is_text():
    tokens = SpecialTokens(pad=0, begin=(), end=(), image=(7,))
    reader = CallReader(tiny_model("olmoe"), tokens)
    prompt = reader.read((), {"input_ids": torch.tensor([[5, 7, 7, 6]])})
    assert prompt.image_T.tolist() == [False, True, True, False]
    step = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.ones(1, 5)}
    decode = reader.read((), step)
    assert decode.decode
    assert decode.image_T.tolist() == [False]


def test_what_cannot_be_told_is_refused():
    model = tiny_model(MODEL_TYPE)  # a fresh one: the model remembers where the last images were
    embeds = model.get_input_embeddings()(ids_of(2, 20)).detach()
    types = torch.zeros(2, 20, dtype=torch.long)
    types[:, 3:10] = 1
    types[:, 10:12] = 2  # video
    with evenmoe.attach(model, Baseline(), split="modality") as attached, torch.no_grad():
        with pytest.raises(ShapeError, match="mm_token_type_ids"):
            model(inputs_embeds=embeds)
        attached.reset_loads()
        model(inputs_embeds=embeds, mm_token_type_ids=types)
        assert loads_by_modality(attached.loads).image.tokens_L.tolist() == [18, 18]
    for policy in (TokenDrop(gamma=1, modality="text-first"), evenmoe.routing.Macs(gamma=1, rho=0)):
        with evenmoe.attach(model, policy), torch.no_grad():
            with pytest.raises(ShapeError, match=f"as {policy.name} needs"):
                model(inputs_embeds=embeds)
            model(inputs_embeds=embeds, mm_token_type_ids=types)
    text = tiny_model("olmoe")
    with pytest.raises(ConfigError, match=r"split = 'modality'.*names no image token"):
        evenmoe.attach(text, Baseline(), split="modality")
    with pytest.raises(ConfigError, match=r"policy = 'macs'.*names no image token"):
        evenmoe.attach(text, evenmoe.routing.Macs(gamma=1, rho=0))
    with pytest.raises(ConfigError, match="split = 'both' is not allowed: one of none, modality"):
        evenmoe.attach(model, Baseline(), split="both")


def test_a_layer_called_by_itself_cannot_be_split(model):
    block = model.model.language_model.layers[0].mlp
    with (
        evenmoe.attach(model, Baseline(), split="modality"),
        pytest.raises(ShapeError, match="belong to a batch"),
    ):
        block(torch.zeros(1, 5, 32))


def test_image_tokens_of_a_nested_configuration():
    """An omni model's image token is named by its thinker's configuration, not by its own."""
    from types import SimpleNamespace

    class Thinker(SimpleNamespace):
        sub_configs = {}  # noqa: RUF012

    class Omni(SimpleNamespace):
        sub_configs = {"thinker_config": Thinker, "talker_config": Thinker}  # noqa: RUF012

    config = Omni(thinker_config=Thinker(image_token_id=7, video_token_id=8), talker_config=None)
    assert SpecialTokens.of(SimpleNamespace(config=config), None).image == (7, 8)


def test_the_profile_by_hand():
    def counts(before, after) -> LoadCounts:
        return LoadCounts(
            before_LE=np.array([before]),
            after_LE=np.array([after]),
            tokens_L=np.array([sum(before)]),
            kept_L=np.array([sum(after)]),
            gate_mass_before_L=np.ones(1),
            gate_mass_kept_L=np.ones(1),
            tokens_without_expert_L=np.zeros(1, dtype=int),
        )

    image, text = counts([6, 2, 0, 0], [4, 2, 0, 0]), counts([0, 2, 5, 1], [0, 2, 4, 1])
    loads = ExpertLoads(
        layers=("layer",),
        num_experts_L=np.array([4]),
        top_k=1,
        total=counts([6, 4, 5, 1], [4, 4, 4, 1]),
        by_tag={"image": image, "text": text},
    )
    profile = modality_profile(loads, 0)  # 16 pairs on 4 experts: the mean is 4
    assert profile.image_before_E.tolist() == [1.5, 0.5, 0, 0]
    assert profile.text_before_E.tolist() == [0, 0.5, 1.25, 0.25]
    assert profile.image_after_E.tolist() == [1.0, 0.5, 0, 0]
    assert profile.text_after_E.tolist() == [0, 0.5, 1.0, 0.25]
    with pytest.raises(ConfigError, match="layer = 1"):
        modality_profile(loads, 1)


def test_inner_calls_are_split_too(model):
    ids = ids_of(2, 20)
    ids[:, 4:12] = model.config.image_token_id
    with evenmoe.attach(model, Baseline(), split="modality") as attached:
        forward(model.model.language_model, ids)
    assert loads_by_modality(attached.loads).image.tokens_L.tolist() == [16, 16]
