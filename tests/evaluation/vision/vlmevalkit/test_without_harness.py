"""What there is to VLMEvalKit's side without VLMEvalKit: the table, messages, names, and how its lack is told."""

import base64
import csv
import io
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.scenes import heldout_items
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.scoring.extras import MissingExtraError
from evenmoe.evaluation.specs import parse_policy
from evenmoe.evaluation.vision.run import run_multimodal
from evenmoe.evaluation.vision.vlmevalkit import harness, tsv, write_tsv
from evenmoe.evaluation.vision.vlmevalkit.messages import (
    NO_OPTION,
    bare_question,
    identity_of,
    lettered,
    options_of,
    prompt_of,
)
from evenmoe.evaluation.vision.vlmevalkit.registering import model_name
from evenmoe.evaluation.vision.vlmevalkit.tsv import COLUMNS, LETTERS
from tests.evaluation.vision.tiny_vlm import save_tiny_vlm

csv.field_size_limit(2**24)
ITEMS = heldout_items(4)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_table_says_all_of_an_item(tmp_path):
    rows = read(write_tsv(tmp_path / "new" / "scenes.tsv", ITEMS))
    assert len(rows) == len(ITEMS)
    for row, item in zip(rows, ITEMS, strict=True):
        assert tuple(row) == COLUMNS
        assert (row["index"], row["question"]) == (item.id, item.question)
        assert (row["category"], row["l2-category"]) == (item.kind, item.family)
        assert row[row["answer"]] == item.answer
        assert tuple(row[letter] for letter in LETTERS if row[letter]) == item.options
        image = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        assert np.array_equal(np.asarray(image), item.image)
    assert not list(tmp_path.rglob("*.partial"))


def test_the_same_items_give_the_same_bytes_and_all_held_out_are_the_default(tmp_path, monkeypatch):
    one, two = (write_tsv(tmp_path / name, ITEMS[:6]) for name in ("one.tsv", "two.tsv"))
    assert one.read_bytes() == two.read_bytes()
    monkeypatch.setattr(tsv, "heldout_items", lambda: ITEMS)
    rows = read(write_tsv(tmp_path / "all.tsv"))
    assert [row["index"] for row in rows] == [item.id for item in ITEMS]


def image_file(tmp_path, name="a.png"):
    path = tmp_path / name
    Image.new("L", (8, 8), 200).save(path)
    return str(path)


def test_a_message_is_its_images_and_then_its_text(tmp_path):
    image = {"type": "image", "value": image_file(tmp_path)}
    prompt = prompt_of([image, {"type": "text", "value": "a"}, {"type": "text", "value": "b"}], 7)
    assert (prompt.text, prompt.max_new_tokens) == ("a\nb", 7)
    assert [(shown.mode, shown.size) for shown in prompt.images] == [("RGB", (8, 8))]


@pytest.mark.parametrize(
    ("kinds", "word"),
    [
        (("video", "text"), "video"),
        (("text", "image"), "after text"),
        (("image", "text", "image"), "after text"),
    ],
)
def test_what_the_model_cannot_be_shown_is_refused(tmp_path, kinds, word):
    message = [{"type": kind, "value": image_file(tmp_path)} for kind in kinds]
    with pytest.raises(UnsupportedModelError, match=word):
        prompt_of(message, 1)


def test_a_bare_question_carries_the_options_that_there_are_without_showing_them(tmp_path):
    row = {"index": "x", "question": "what is it?", "A": "red", "B": 3, "C": math.nan, "answer": "A"}
    image = image_file(tmp_path)
    message = bare_question(row, [image])
    assert options_of(row) == {"A": "red", "B": "3"}
    assert prompt_of(message, 1).text == "what is it?"
    assert identity_of(message) == (("image", image), ("text", "what is it?"))
    assert [lettered(answer, message) for answer in ("Red.", "3", "blue", "")] == [
        "A",
        "B",
        NO_OPTION,
        NO_OPTION,
    ]


def test_an_answer_stays_as_it_is_where_no_options_are_carried():
    assert lettered("a red square", [{"type": "text", "value": "what?"}]) == "a red square"


def test_an_option_is_named_by_its_whole_text_alone():
    message = [{"type": "text", "value": "", "options": {"A": "1", "B": "2", "C": "12"}}]
    assert [lettered(answer, message) for answer in ("12", "1", "21")] == ["C", "A", NO_OPTION]


WORDS = st.text(st.characters(categories=("Ll", "Nd")), min_size=1, max_size=4)


@given(options=st.lists(WORDS, min_size=1, max_size=4, unique_by=str.lower), answer=WORDS)
def test_letters_agree_with_comparing_the_answers_themselves(options, answer):
    carried = dict(zip("ABCD", options, strict=False))
    letter = lettered(answer, [{"type": "text", "value": "", "options": carried}])
    assert carried.get(letter, "").lower() == (
        answer.lower() if answer.lower() in map(str.lower, options) else ""
    )


def config(model, policy="token_drop", gamma=1.0, **settings):
    return EvalConfig(model=str(model), tasks=(), policy=parse_policy(policy), gamma=gamma, **settings)


def test_every_setting_checkpoint_and_weight_is_another_name(tmp_path):
    one, two = (save_tiny_vlm(tmp_path / name / "same") for name in ("one", "two"))
    names = [
        model_name(config(one), {}),
        model_name(config(two), {}),
        model_name(config(one, gamma=1.5), {}),
        model_name(config(one, "token_drop:keep=random"), {}),
        model_name(config(one, batch_size=8), {}),
        model_name(config(one, isolation="strict"), {}),
        model_name(config(one), {"prompts": "question"}),
    ]
    assert model_name(config(one), {}) == names[0]
    weights = one / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    names.append(model_name(config(one), {}))
    assert len(set(names)) == len(names)
    assert all(name.startswith("same-token_drop-") for name in names)
    assert "/" not in model_name(config(one, "macs:labels=some/labels.json"), {})
    assert model_name(config(one), {}, "mine").startswith("mine-token_drop-gamma1-")


def test_the_lack_of_vlmevalkit_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    folder = save_tiny_vlm(tmp_path / "model")
    out = tmp_path / "out"
    with pytest.raises(MissingExtraError, match=r"vlmeval is not installed.*tools/vlm_env/vlmevalkit\.sh"):
        run_multimodal(config(folder).model_copy(update={"tasks": ("vlmevalkit:scenes",)}), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"tasks": ("vlmevalkit:scenes", "scenes")}, "tasks"),
        ({"tasks": ("vlmevalkit:scenes",), "num_fewshot": 2}, "num_fewshot"),
        ({"tasks": ("vlmevalkit:scenes",), "include_path": "x"}, "include_path"),
        ({"tasks": ("vlmevalkit:scenes",), "apply_chat_template": True}, "apply_chat_template"),
    ],
)
def test_settings_that_cannot_act_are_refused_before_anything_is_loaded(tmp_path, settings, field):
    with pytest.raises(ConfigError) as refused:
        run_multimodal(config("nowhere").model_copy(update=settings), tmp_path / "out")
    assert refused.value.field == field
    assert not (tmp_path / "out").exists()
    assert "vlmeval" not in sys.modules or harness.find_spec("vlmeval") is not None
