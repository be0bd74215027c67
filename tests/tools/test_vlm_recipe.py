"""The recipe of the bundled vision-language model: tokens, packing, heads, training, measuring, export, the command."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from evenmoe.evaluation.scenes import (
    COLOURS,
    NOUNS,
    Item,
    Scene,
    SceneObject,
    ask_all,
    draw_scene,
    heldout_digits,
    heldout_items,
    render,
)
from evenmoe.models.processing import load_processor
from tests.tools.tiny_vlm import TINY, TOKENIZER, tiny_trainer
from tools.errors import RecipeError
from tools.vlm_model import __main__ as command
from tools.vlm_model import heads, measure, metrics
from tools.vlm_model.batches import IGNORED, Sample, batch_at, choose_questions, draw_crowd, pack
from tools.vlm_model.digits import training_digits
from tools.vlm_model.export import export_model, export_processor
from tools.vlm_model.heads import ImageHead, MentionHead, PairHead
from tools.vlm_model.measure import accuracy_by, answer_items, measure_loads, model_inputs
from tools.vlm_model.metrics import majority, shuffle_images
from tools.vlm_model.model import build_model
from tools.vlm_model.packed import read, see, visible
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import UNKNOWN, words_of
from tools.vlm_model.train import learning_rate_factor


def samples(number: int = 3, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(number):
        scene = draw_scene(rng)
        image = render(scene, heldout_digits(), rng)
        drawn.append(Sample(scene=scene, image=image, questions=choose_questions(scene, TINY, rng)))
    return drawn


# --- tokens and batches ---


def test_the_tokenizer_knows_every_word_of_the_held_out_set_and_nothing_else() -> None:
    unknown = TOKENIZER.convert_tokens_to_ids(UNKNOWN)
    for item in heldout_items():
        assert TOKENIZER.convert_ids_to_tokens(TOKENIZER(item.question)["input_ids"]) == words_of(
            item.question
        )
        for option in item.options:
            assert len(TOKENIZER(option)["input_ids"]) == 1
            assert unknown not in TOKENIZER(option)["input_ids"]
    assert TOKENIZER("Which ELEPHANT?")["input_ids"][1] == unknown


def test_a_step_s_batch_depends_on_the_step_alone() -> None:
    first, again, other = (batch_at(step, TINY, TOKENIZER, heldout_digits()) for step in (5, 5, 6))
    assert np.array_equal(first.pixels_BYX3, again.pixels_BYX3)
    assert torch.equal(first.ids_BS, again.ids_BS)
    assert not np.array_equal(first.pixels_BYX3, other.pixels_BYX3)


def test_a_batch_says_what_its_scenes_say() -> None:
    drawn = samples()
    batch = pack(drawn, TINY, TOKENIZER)
    asked = [(b, question) for b, sample in enumerate(drawn) for question in sample.questions]
    answers = TOKENIZER.convert_ids_to_tokens(batch.targets_BS[batch.targets_BS != IGNORED][::2].tolist())
    assert answers == [question.answer for _, question in asked]
    expected = [(b, thing, question) for b, question in asked for _, thing in question.mentions]
    assert len(expected) == len(batch.mentions_M2)
    for (b, thing, _), spot, labels in zip(
        expected, batch.mentions_M2.tolist(), batch.mention_labels_M4.tolist(), strict=True
    ):
        found = drawn[b].scene.objects[thing]
        assert spot[0] == b
        assert TOKENIZER.convert_ids_to_tokens(int(batch.ids_BS[tuple(spot)])) in (found.noun, "object")
        assert labels == [found.row, found.column, NOUNS.index(found.noun), COLOURS.index(found.colour)]
    two = [question.mentions for _, question in asked if len(question.mentions) == 2]
    spots = [[(int(batch.mentions_M2[m, 1])) for m in pair] for pair in batch.pairs_L2.tolist()]
    assert [(b - a) for a, b in spots] == [second[0] - first[0] for first, second in two]
    for b, sample in enumerate(drawn):
        for n, (noun, colour, digit, row, column) in enumerate(batch.image_labels_BN5[b].tolist()):
            assert (row, column) == (n // 6 // 2, n % 6 // 2)
            here = sample.scene.named(row=row, column=column)
            assert noun == (1 + NOUNS.index(here[0].noun) if here else 0)
            assert colour == (COLOURS.index(here[0].colour) if here else IGNORED)
            assert digit == (here[0].digit if here and here[0].digit is not None else IGNORED)


def test_a_position_sees_the_image_and_its_own_question_up_to_itself() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, 2, 3]])
    mask = visible(segments)[0, 0]
    for i, mine in enumerate(segments[0].tolist()):
        for j, theirs in enumerate(segments[0].tolist()):
            assert mask[i, j] == (j <= i and theirs in (0, mine))


def test_a_pair_is_labelled_by_how_its_objects_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A circle at the top right and a blue square at the bottom right: row more, column same, noun and colour other."""
    things = (SceneObject(noun="circle", colour="red", row=0, column=2),
              SceneObject(noun="square", colour="blue", row=2, column=2))  # fmt: skip
    scene = Scene(background="dark", objects=things)
    question = next(q for q in ask_all(scene) if q.text == "is the red circle above the blue square?")
    image = render(scene, heldout_digits(), np.random.default_rng(0))
    batch = pack([Sample(scene=scene, image=image, questions=(question,))], TINY, TOKENIZER)
    labels: list[torch.Tensor] = []
    monkeypatch.setattr(
        heads, "_mean_loss", lambda logits, given, sizes: labels.append(given) or logits.sum()
    )
    PairHead(32)(torch.zeros(*batch.ids_BS.shape, 32), batch)
    assert labels[0].tolist() == [[2, 1, 0, 0]]


def test_late_questions_are_drawn_by_the_later_weights() -> None:
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(200)]
    recipe, shares = Recipe(), []
    for step in (0, recipe.late_step):
        rng = np.random.default_rng(0)
        kinds = [q.kind for scene in scenes for q in choose_questions(scene, recipe, rng, step)]
        shares.append(kinds.count("beside") / len(kinds))
    assert shares[1] > 1.5 * shares[0]


def test_crowded_scenes_have_one_object_a_cell_and_many_digits() -> None:
    scenes = [draw_crowd(np.random.default_rng(seed)) for seed in range(50)]
    assert all(len({(t.row, t.column) for t in scene.objects}) == len(scene.objects) for scene in scenes)
    nouns = Counter(thing.noun for scene in scenes for thing in scene.objects)
    assert nouns["digit"] > 100


# --- the forward pass of training ---


def test_packed_questions_are_answered_as_the_stock_model_answers_each_alone() -> None:
    drawn = samples(4)
    model = build_model(TINY, TOKENIZER).eval()
    batch = pack(drawn, TINY, TOKENIZER)
    with torch.no_grad():
        hidden_AH, _ = read(model, batch, *see(model, batch.pixels_BYX3))
        packed = model.lm_head(hidden_AH)[::2]
        items = [
            replace(heldout_items(1)[0], image=sample.image, question=question.text)
            for sample in drawn
            for question in sample.questions
        ]
        alone = model(**model_inputs(model, TOKENIZER, items)).logits[:, -1]
    assert alone.abs().max() > 0.1
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


def test_the_measured_inputs_are_those_of_the_processor(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    export_processor(TOKENIZER, TINY, tmp_path)
    model = export_model(build_model(TINY, TOKENIZER), tmp_path)
    processor, items = load_processor(tmp_path), heldout_items(1)
    messages = [
        [{"role": "user", "content": [{"type": "image", "image": image_module.fromarray(item.image)},
                                      {"type": "text", "text": item.question}]}]
        for item in items
    ]  # fmt: skip
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    expected = model_inputs(model, TOKENIZER, items)
    assert set(inputs) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(inputs[name].to(value.dtype), value)


@pytest.mark.parametrize("change", [{"hidden_size": 48}, {"num_experts": 12}, {"patch_size": 10}])
def test_sizes_that_do_not_divide_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="must"):
        build_model(replace(TINY, **change), TOKENIZER)


def test_a_head_that_knows_nothing_has_the_loss_of_a_uniform_guess_and_no_label_is_no_loss() -> None:
    batch = pack(samples(), TINY, TOKENIZER)
    assert (batch.image_labels_BN5[..., 2] != IGNORED).any(), "some scene has a digit"
    image_head, mention_head, pair_head = ImageHead(32), MentionHead(32), PairHead(32)
    for head in (image_head, mention_head, pair_head):
        torch.nn.init.zeros_(head.linear.weight)
        torch.nn.init.zeros_(head.linear.bias)
    loss = image_head(torch.randn(*batch.image_labels_BN5.shape[:2], 32), batch)
    assert loss.item() == pytest.approx(np.log([5, 6, 10, 3, 3]).mean(), rel=1e-5)
    hidden_BSH = torch.randn(*batch.ids_BS.shape, 32)
    assert mention_head(hidden_BSH, batch).item() == pytest.approx(np.log([3, 3, 4, 6]).mean(), rel=1e-5)
    nothing = replace(batch, mentions_M2=batch.mentions_M2[:0], mention_labels_M4=batch.mention_labels_M4[:0])
    assert mention_head(hidden_BSH, nothing).item() == 0


# --- training ---


def test_the_learning_rate_warms_up_twice_and_ends_near_zero() -> None:
    recipe = Recipe()
    factors = [learning_rate_factor(step, recipe) for step in range(recipe.num_steps)]
    assert factors[0] == factors[recipe.vision_steps] == 1 / recipe.warmup_steps
    assert factors[recipe.warmup_steps] == factors[recipe.vision_steps + recipe.warmup_steps] == 1
    falling = factors[int((1 - recipe.decay_fraction) * recipe.num_steps) :]
    assert all(np.diff(falling) < 0)
    assert falling[-1] < 0.001


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut = tiny_trainer(tmp_path / "whole"), tiny_trainer(tmp_path / "cut")
    whole.run()
    cut.run(until=4)
    resumed = tiny_trainer(tmp_path / "cut")
    assert resumed.resume()
    assert resumed.step == 4
    resumed.run()
    expected, got = whole.all.state_dict(), resumed.all.state_dict()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert [row["step"] for row in resumed.log] == [row["step"] for row in whole.log] == [1, 2, 3, 4, 5, 6]
    other = tiny_trainer(tmp_path / "cut", replace(TINY, learning_rate=1.0))
    assert not other.resume(), "of another recipe"


def test_the_vision_stage_trains_the_vision_tower_and_nothing_else(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run(until=TINY.vision_steps)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]) == (".visual." not in name or "deepstack" in name), name
    assert set(trainer.log[-1]) == {"step", "seconds", "image"}
    trainer.run(until=4)
    assert {"answers", "ends", "mentions", "accuracy"} <= set(trainer.log[-1])
    assert "pairs" not in trainer.log[-1]
    trainer.run()
    assert "pairs" in trainer.log[-1]
    changed = [name for name, v in trainer.model.state_dict().items() if not torch.equal(v, before[name])]
    assert len(changed) == len(before)


# --- measuring ---


def test_accuracy_and_majority_on_a_worked_example() -> None:
    item = heldout_items(1)[0]
    made = [
        replace(item, kind=kind, family=family, answer=answer)
        for kind, family, answer in (
            ("colour", "attribute recognition", "red"),
            ("colour", "attribute recognition", "red"),
            ("colour", "attribute recognition", "blue"),
            ("shape", "attribute recognition", "circle"),
            ("count", "coarse perception", "2"),
        )
    ]
    answers = ["red", "blue", "blue", "square", "2"]
    assert accuracy_by(made, answers, "kind") == {"colour": 2 / 3, "shape": 0, "count": 1, "all": 3 / 5}
    assert accuracy_by(made, answers, "family") == {
        "attribute recognition": 1 / 2, "coarse perception": 1, "all": 3 / 5,
    }  # fmt: skip
    assert majority(made, "kind") == {"colour": 2 / 3, "shape": 1, "count": 1, "all": 4 / 5}


def test_shuffling_gives_every_question_another_item_s_image() -> None:
    items = heldout_items(5)
    shuffled = shuffle_images(items, 0)
    assert [item.question for item in shuffled] == [item.question for item in items]
    assert all(a.image is not b.image for a, b in zip(items, shuffled, strict=True))
    assert {item.image.tobytes() for item in shuffled} == {item.image.tobytes() for item in items}


def test_padding_counts_neither_in_answers_nor_in_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = build_model(TINY, TOKENIZER).eval(), heldout_items(3)
    answers, loads = answer_items(model, TOKENIZER, items), measure_loads(model, TOKENIZER, items)
    monkeypatch.setattr(measure, "_ITEMS_PER_FORWARD", 1)
    assert answer_items(model, TOKENIZER, items) == answers
    alone = measure_loads(model, TOKENIZER, items)
    assert set(loads) == {"all", "image", "text"}
    for name, peaks in loads.items():
        assert peaks == pytest.approx(alone[name], rel=0.02)
        assert all(1 <= peak <= TINY.num_experts / TINY.num_experts_per_token for peak in peaks)


# --- export and command ---


def test_what_ships_loads_as_trained(tmp_path: Path) -> None:
    model = build_model(TINY, TOKENIZER)
    export_processor(TOKENIZER, TINY, tmp_path)
    loaded = export_model(model, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value.bfloat16().float(), loaded.state_dict()[name]), name
    assert loaded.generation_config.eos_token_id == TOKENIZER.eos_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert tokenizer.chat_template == TOKENIZER.chat_template


def test_training_digits_are_the_rest_and_a_mismatch_stops_the_recipe() -> None:
    pytest.importorskip("sklearn")
    digits = training_digits(Recipe())
    assert len(digits.labels) == 1400
    with pytest.raises(RecipeError, match="from 1300 on are not"):
        training_digits(Recipe(num_train_digits=1300))


def few_items(per_family: int = 2) -> tuple[Item, ...]:
    return heldout_items(min(per_family, 2))


def test_the_command_makes_a_folder_with_weights_figures_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(command, "Recipe", lambda: TINY)
    for module in (command, metrics):
        monkeypatch.setattr(module, "heldout_items", few_items)
    out, threads = tmp_path / "out", torch.get_num_threads()
    arguments = ["--work", str(tmp_path / "work"), "--out", str(out), "--early", str(tmp_path / "early")]
    assert command.main([*arguments, "--threads", str(threads)]) == 0
    assert (tmp_path / "early" / "model.safetensors").stat().st_size > 10_000
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["curve"][-1]["step"] == TINY.num_steps
    assert 0 <= figures["accuracy"]["family"]["all"] <= 1
    assert figures["image_token_share"]["least"] >= 0.6
    card = (out / "README.md").read_text()
    assert f"**{figures['accuracy']['family']['all']:.1%}**" in card
    assert "CC BY 4.0" in card
    assert "{" not in card, "every field is filled"
    ElementTree.fromstring((out / "training.svg").read_text())
