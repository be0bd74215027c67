"""The processor that needs no torchvision: its arrays, its placeholders, saving, and generating with it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scenes import heldout_items
from evenmoe.evaluation.scoring.extras import MissingExtraError
from evenmoe.models.bundled import bundled_path, bundled_processor, load_bundled
from evenmoe.models.loading import load_tokenizer
from evenmoe.models.processing import ImageTextProcessor, load_processor

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def processor():
    return load_processor(bundled_path("vlm"))


def chat(item):
    parts = [{"type": "image", "image": Image.fromarray(item.image)}, {"type": "text", "text": item.question}]
    return [{"role": "user", "content": parts}]


def encode(processor, items):
    return processor.apply_chat_template(
        [chat(item) for item in items], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt", processor_kwargs={"padding": True},
    )  # fmt: skip


def slow_patches(image, patch=8, merge=2):
    """Patch by patch: groups of merge x merge patches row by row, two equal frames, channels first."""
    rows = []
    for top in range(0, image.shape[0], patch * merge):
        for left in range(0, image.shape[1], patch * merge):
            for y in range(top, top + patch * merge, patch):
                for x in range(left, left + patch * merge, patch):
                    values = [
                        [(image[y : y + patch, x : x + patch, channel] / 255 - 0.5) / 0.5] * 2
                        for channel in range(3)
                    ]
                    rows.append(np.array(values).ravel())
    return np.array(rows)


@settings(max_examples=10)
@given(image=arrays(np.uint8, (96, 96, 3)))
def test_pixels_are_the_patches_of_a_plain_computation(processor, image):
    inputs = processor(images=[Image.fromarray(image)], text=["<|image_pad|>"], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 12, 12]]
    np.testing.assert_allclose(inputs["pixel_values"].numpy(), slow_patches(image), atol=1e-6)


def test_a_prompt_has_36_image_tokens_between_their_marks_and_is_padded_on_the_left(processor):
    items = heldout_items(3)
    inputs = encode(processor, items)
    ids, types, mask = (inputs[name] for name in ("input_ids", "mm_token_type_ids", "attention_mask"))
    image_id = load_bundled("vlm").config.image_token_id
    assert torch.equal(types.bool(), ids == image_id)
    assert types.sum(-1).tolist() == [36] * len(items)
    lengths = mask.sum(-1)
    assert lengths.min() < lengths.max() == ids.shape[1], "some are padded"
    for row, keep, length, item in zip(ids, mask, lengths, items, strict=True):
        assert keep[-length:].all(), "padding is on the left"
        words = processor.tokenizer.convert_ids_to_tokens(row[-length:].tolist())
        assert words[:2] == ["<|user|>", "<|vision_start|>"]
        assert words[38:] == ["<|vision_end|>", *item.question[:-1].split(), "?", "<|assistant|>"]


def test_an_image_of_another_shape_keeps_its_proportions(processor):
    inputs = processor(images=[Image.new("RGB", (300, 100))], text=["<|image_pad|>"], return_tensors="pt")
    _, height, width = inputs["image_grid_thw"][0].tolist()
    assert width > 2 * height
    assert inputs["input_ids"].shape[1] == height * width // 4


def test_text_alone_needs_no_image(processor):
    inputs = processor(text=["how many objects are there?"], return_tensors="pt")
    assert inputs["mm_token_type_ids"].sum() == 0
    assert "pixel_values" not in inputs


def test_a_saved_processor_is_read_back_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((bundled_path("vlm") / "config.json").read_text())
    items = heldout_items(1)
    first, second = (encode(p, items) for p in (processor, load_processor(tmp_path)))
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_fallback_gives_what_the_bundled_processor_gives(tmp_path):
    """Whichever class loads here, stock or ours, the arrays are the same."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    path = bundled_path("vlm")
    ours = ImageTextProcessor(Qwen2VLImageProcessorPil.from_pretrained(path), load_tokenizer(path))
    ours.tokenizer.padding_side = "left"
    items = heldout_items(1)
    first, second = encode(ours, items), encode(bundled_processor("vlm"), items)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_older_checkpoint_s_template_is_found(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((bundled_path("vlm") / "config.json").read_text())
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 'described' }}"}))
    assert load_processor(tmp_path).chat_template == "{{ 'described' }}"


def test_generate_gives_one_word_then_ends_also_in_a_padded_batch(processor):
    model, items = load_bundled("vlm"), heldout_items(2)
    inputs = encode(processor, items)
    together = model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
    for item, row in zip(items, together, strict=True):
        alone = encode(processor, [item])
        one = model.generate(**alone, max_new_tokens=4)[0, alone["input_ids"].shape[1] :]
        text = processor.decode(row, skip_special_tokens=True)
        assert text == processor.decode(one, skip_special_tokens=True)
        assert len(text.split()) == 1


def test_a_model_without_a_processor_is_refused():
    with pytest.raises(ConfigError, match=r"path_or_name = .*text"):
        load_processor(bundled_path("text"))
    with pytest.raises(ConfigError, match=r"name = 'none'.*text, vlm"):
        bundled_processor("none")


def test_without_pillow_the_error_names_the_extra(monkeypatch):
    from importlib.machinery import ModuleSpec

    from evenmoe.evaluation.scoring import extras

    def find(name: str) -> ModuleSpec | None:
        return None if name == "PIL" else ModuleSpec(name, None)

    monkeypatch.setattr(extras, "find_spec", find)
    with pytest.raises(MissingExtraError, match=r"PIL is not installed.*evenmoe\[vlm\]"):
        load_processor(bundled_path("vlm"))
