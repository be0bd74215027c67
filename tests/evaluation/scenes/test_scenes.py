"""Drawn scenes: what is asked has one answer, the same seed draws the same bytes, and the held-out set is fixed."""

import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.evaluation.scenes import (
    COLOURS,
    FAMILIES,
    IMAGE_SIZE,
    KINDS,
    Digits,
    Item,
    Scene,
    SceneObject,
    ask_all,
    draw_scene,
    heldout_digits,
    heldout_items,
    items_checksum,
    kinds_of,
    render,
)  # fmt: skip
from tests.oracles import scenes as oracle

CHECKSUM = "e5de3304e22f96544da01905f701f6dfee15af8ac96fcb91cbb9164ae9d32646"


def facts(scene: Scene) -> list[dict[str, object]]:
    return [asdict(thing) for thing in scene.objects]


@given(st.integers(0, 2**32))
def test_a_scene_holds_what_it_may_and_its_questions_have_the_answer_that_its_objects_give(seed):
    scene = draw_scene(np.random.default_rng(seed))
    assert 1 <= len(scene.objects) <= 4
    assert len({(thing.row, thing.column) for thing in scene.objects}) == len(scene.objects)
    assert sum(thing.digit is not None for thing in scene.objects) <= 1
    asked = ask_all(scene)
    assert len({q.text for q in asked}) == len(asked)
    for question in asked:
        assert question.answer == oracle.answer(question.text, scene.background, facts(scene)), question.text
        assert question.answer in KINDS[question.kind].answers
        words = question.text.rstrip("?").split()
        for word, i in question.mentions:
            thing = scene.objects[i]
            assert words[word] in (thing.noun, "object"), (
                "a mention points at the last word of the object's name"
            )


def test_a_worked_scene():
    scene = Scene(
        background="dark",
        objects=(
            SceneObject(noun="circle", colour="red", row=0, column=2),
            SceneObject(noun="circle", colour="blue", row=1, column=0),
            SceneObject(noun="digit", colour="red", row=2, column=0, digit=7),
        ),
    )
    answers = {question.text: question.answer for question in ask_all(scene)}
    assert answers["is the blue circle left of the red circle?"] == "yes"
    assert answers["is the red digit above the blue circle?"] == "no"
    assert answers["which is further up the blue circle or the red circle?"] == "red"
    assert answers["what is the digit plus 3?"] == "10"
    assert answers["how many objects are not red?"] == "1"
    assert answers["what shape is the blue object?"] == "circle"
    assert "what colour is the circle?" not in answers, "there are two"
    assert "what shape is the red object?" not in answers, "there are two"
    assert "is the red digit left of the blue circle?" not in answers, "they are in the same column"
    assert "is there a square?" in answers


def test_the_oracle_refuses_an_ambiguous_name():
    circles = [{"noun": "circle", "colour": "red"}, {"noun": "circle", "colour": "blue"}]
    with pytest.raises(ValueError, match="fits 2 objects"):
        oracle.answer("what colour is the circle?", "dark", circles)
    with pytest.raises(ValueError, match="no such question"):
        oracle.answer("why is the circle?", "dark", circles)


@pytest.mark.parametrize("background", ["dark", "light"])
@pytest.mark.parametrize("colour", COLOURS)
def test_an_object_is_painted_in_its_cell_in_its_colour_and_nowhere_else(background, colour):
    thing = SceneObject(noun="square", colour=colour, row=1, column=2)
    scene, empty = Scene(background=background, objects=(thing,)), Scene(background=background, objects=())
    image = render(scene, heldout_digits(), np.random.default_rng(3)).astype(int)
    base = render(empty, heldout_digits(), np.random.default_rng(3)).astype(int)
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    far = abs(image - np.median(base)).max(-1) > 50
    rows, columns = np.nonzero(far)
    assert 250 < len(rows) < 650, "a square of 17 to 23 pixels"
    assert (rows // 32 == 1).all()
    assert (columns // 32 == 2).all()


@pytest.mark.parametrize("figure", range(10))
def test_a_painted_digit_has_the_ink_of_the_stored_one(figure):
    """Where the stored digit has most ink the picture has the digit's colour, and where it has none the background."""
    digits = heldout_digits()
    one = Digits(images=digits.images[np.argsort(digits.labels, kind="stable")][::39][:10],
                 labels=np.arange(10, dtype=np.uint8))  # fmt: skip
    thing = SceneObject(noun="digit", colour="blue", row=0, column=0, digit=figure)
    scene = Scene(background="light", objects=(thing,))
    image = render(scene, one, np.random.default_rng(figure)).astype(int)
    redness = np.stack([image[y : y + 28, x : x + 28, 0] for y in range(5) for x in range(5)])
    ink = np.kron(one.images[one.labels == figure][0], np.ones((7, 7)))[::2, ::2]
    correlation = max(-np.corrcoef(window.ravel(), ink.ravel())[0, 1] for window in redness)
    assert correlation > 0.85


def test_the_held_out_digits_are_all_figures_and_unlike_each_other():
    digits = heldout_digits()
    assert digits.images.shape == (397, 8, 8)
    assert digits.images.max() == 16
    assert min(Counter(digits.labels.tolist()).values()) >= 30
    assert len({image.tobytes() for image in digits.images}) == 397
    with pytest.raises(ShapeError, match="should be"):
        replace(digits, labels=digits.labels[1:])
    with pytest.raises(ShapeError, match=r"missing: \[3\]"):
        replace(digits, labels=np.where(digits.labels == 3, 4, digits.labels))


def test_the_held_out_digits_are_those_that_training_leaves_out():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    digits = heldout_digits()
    assert np.array_equal(data.images[1400:], digits.images)
    assert np.array_equal(data.target[1400:], digits.labels)
    seen = {image.astype(np.uint8).tobytes() for image in data.images[:1400]}
    assert not seen & {image.tobytes() for image in digits.images}


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return heldout_items()


def test_the_held_out_set_is_the_one_that_figures_were_measured_on(items):
    """numpy may change what a seed draws; then every figure of the model card must be measured anew."""
    assert items_checksum(items) == CHECKSUM


def test_every_held_out_answer_follows_from_the_scene_and_is_among_the_options_once(items):
    assert len(items) == 1200
    assert len({item.id for item in items}) == len(items)
    for item in items:
        assert item.answer == oracle.answer(item.question, item.scene.background, facts(item.scene)), item.id
        assert item.options.count(item.answer) == 1
        assert 2 <= len(set(item.options)) == len(item.options) <= 4
        assert set(item.options) <= set(KINDS[item.kind].answers)
        assert item.kind in kinds_of(item.family)
        assert item.image.dtype == np.uint8
        assert item.image.shape == (96, 96, 3)


def test_families_and_answers_are_balanced(items):
    assert Counter(item.family for item in items) == dict.fromkeys(FAMILIES, 200)
    for kind in KINDS.values():
        counts = Counter(item.answer for item in items if item.kind == kind.name)
        assert set(counts) == set(kind.answers)
        assert max(counts.values()) - min(counts.values()) <= 1
    places = Counter(item.options.index(item.answer) for item in items if len(item.options) == 4)
    assert max(places.values()) < 1.4 * min(places.values()), "no place of the right option stands out"


def test_a_smaller_set_is_a_prefix_and_a_bad_size_is_refused(items):
    assert items_checksum(heldout_items(5)) == items_checksum(items[:30])
    with pytest.raises(ConfigError, match="per_family = 0"):
        heldout_items(0)


def test_the_checksum_notices_a_pixel_and_a_word(items):
    few = items[:3]
    image = few[0].image.copy()
    image[0, 0, 0] ^= 1
    for changed in (replace(few[0], image=image), replace(few[0], answer="no")):
        assert items_checksum([changed, *few[1:]]) != items_checksum(few)


def test_an_item_s_picture_cannot_be_changed_by_accident(items):
    with pytest.raises(ValueError, match="read-only"):
        items[0].image[0, 0, 0] = 0


def test_scenes_need_numpy_alone():
    code = (
        "import sys, evenmoe.evaluation.scenes as s; s.heldout_items(1);"
        "print(sorted({'torch', 'PIL', 'sklearn', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
