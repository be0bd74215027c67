"""The bundled vision-language model is what its card says, and it looks at the image."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from evenmoe.evaluation.scenes import FAMILIES, KINDS, heldout_items
from evenmoe.models.bundled import bundled_names, bundled_path, bundled_processor, load_bundled

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.slow
PER_FAMILY = 40


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((bundled_path("vlm") / "metrics.json").read_text())


@pytest.fixture(scope="module")
def ask():
    """Give the model's greedy first words for questions about images."""
    model, processor = load_bundled("vlm"), bundled_processor("vlm")

    @torch.inference_mode()
    def words(images, questions) -> list[str]:
        messages = [
            [{"role": "user", "content": [{"type": "image", "image": Image.fromarray(image)},
                                          {"type": "text", "text": question}]}]
            for image, question in zip(images, questions, strict=True)
        ]  # fmt: skip
        found = []
        for start in range(0, len(messages), 48):
            inputs = processor.apply_chat_template(
                messages[start : start + 48], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt", processor_kwargs={"padding": True},
            )  # fmt: skip
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            found += processor.tokenizer.convert_ids_to_tokens(logits.argmax(-1).tolist())
        return found

    return words


def right_by(key: str, items, answers) -> dict[str, float]:
    marks = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        marks[getattr(item, key)].append(item.answer == answer)
    return {name: float(np.mean(values)) for name, values in marks.items()}


def test_the_checkpoint_is_small_plain_and_listed():
    folder = bundled_path("vlm")
    config = json.loads((folder / "config.json").read_text())
    assert "vlm" in bundled_names()
    assert (folder / "model.safetensors").stat().st_size <= 20e6
    assert config["model_type"] == "qwen3_vl_moe"
    assert config["text_config"]["num_local_experts"] % 8 == 0
    assert config["text_config"]["router_aux_loss_coef"] == 0
    assert "auto_map" not in config
    assert "CC BY 4.0" in (folder / "README.md").read_text()


def test_plain_transformers_loads_the_same_model():
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(bundled_path("vlm"), dtype="float32")
    ours = load_bundled("vlm")
    assert not ours.training
    assert all(torch.equal(v, ours.state_dict()[name]) for name, v in plain.state_dict().items())


def test_accuracy_is_that_of_the_card_and_far_above_guessing_and_above_another_image(ask, card):
    items = heldout_items(PER_FAMILY)
    questions = [item.question for item in items]
    answers = ask([item.image for item in items], questions)
    families = right_by("family", items, answers)
    overall = float(np.mean([item.answer == answer for item, answer in zip(items, answers, strict=True)]))
    assert overall >= 0.85
    noise = 3 * (0.25 / PER_FAMILY) ** 0.5
    for family in FAMILIES:
        assert families[family] == pytest.approx(card["accuracy"]["family"][family], abs=noise)
        assert families[family] > card["majority"]["family"][family] + 0.15, family
    other = np.roll(np.arange(len(items)), 1)
    blind = ask([items[i].image for i in other], questions)
    wrong_image = float(np.mean([item.answer == answer for item, answer in zip(items, blind, strict=True)]))
    assert wrong_image < overall - 0.3
    assert wrong_image == pytest.approx(card["shuffled"]["family"]["all"], abs=0.08)


def test_the_card_s_figures_hold_together(card):
    """The goals, on the whole held-out set: overall, and no family or kind at chance."""
    accuracy, guessing = card["accuracy"], card["majority"]
    assert card["held_out_items"] == len(heldout_items()) >= 600
    assert accuracy["family"]["all"] >= 0.88
    assert all(accuracy["family"][family] > guessing["family"][family] + 0.2 for family in FAMILIES)
    assert all(accuracy["kind"][kind] > guessing["kind"][kind] + 0.15 for kind in KINDS)
    assert card["image_token_share"]["least"] >= 0.6
    worst = Counter({kind: -value for kind, value in accuracy["kind"].items()}).most_common(1)[0][0]
    assert f"{worst} (" in (bundled_path("vlm") / "README.md").read_text(), "the card hides no kind"


def test_experts_are_uneven_and_differ_between_image_and_text(card):
    for tokens in ("all", "image", "text"):
        peaks = card["imbalance"][tokens]
        assert len(peaks) == card["recipe"]["num_layers"]
        assert min(peaks) > 1.5
    assert card["imbalance"]["image"] != card["imbalance"]["text"]
