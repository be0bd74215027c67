"""The prompts that expert labels are calibrated on, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.evaluation.scenes import heldout_items
from evenmoe.evaluation.vision.calibration import read_prompts, scene_prompts
from evenmoe.routing import read_expert_modality

PIL = pytest.importorskip("PIL.Image", reason="needs the extra vlm")


def test_scenes_are_drawn_from_the_seed():
    first, again, other = scene_prompts(6, seed=1), scene_prompts(6, seed=1), scene_prompts(6, seed=2)
    pixels = [[np.asarray(prompt.images[0]).tobytes() for prompt in drawn] for drawn in (first, again, other)]
    assert [prompt.text for prompt in first] == [prompt.text for prompt in again]
    assert pixels[0] == pixels[1]
    assert not set(pixels[0]) & set(pixels[2])
    assert scene_prompts(3, seed=1)[2].text == first[2].text
    assert len({prompt.text for prompt in first}) > 1
    heldout = {item.image.tobytes() for item in heldout_items(20)}
    assert not heldout & set(pixels[0])
    with pytest.raises(ConfigError, match="count = 0"):
        scene_prompts(0)


@pytest.fixture
def questions(tmp_path):
    (tmp_path / "pictures").mkdir()
    lines = []
    for number in range(3):
        name = f"pictures/{number}.png"
        PIL.fromarray(np.full((8, 8, 3), 40 * number, dtype=np.uint8)).save(tmp_path / name)
        lines.append(json.dumps({"image": name, "question": f"what is {number}?"}))
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_questions_of_ones_own(questions):
    prompts = read_prompts(questions)
    assert [prompt.text for prompt in prompts] == ["what is 0?", "what is 1?", "what is 2?"]
    assert [np.asarray(prompt.images[0])[0, 0, 0] for prompt in prompts] == [0, 40, 80]
    assert len(read_prompts(questions, limit=2)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "3",
        '{"image": "pictures/0.png"}',
        '{"image": "no.png", "question": "?"}',
        '{"image": "questions.jsonl", "question": "?"}',
    ],
)
def test_a_line_that_is_wrong_is_named(questions, line):
    questions.write_text(questions.read_text() + line + "\n")
    with pytest.raises(FileFormatError, match="line 4, is not"):
        read_prompts(questions)
    assert len(read_prompts(questions, limit=3)) == 3


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(FileFormatError, match="has no line"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "absent.jsonl")


def test_the_command(evenmoe, questions, tmp_path):
    from tests.evaluation.vision.tiny_vlm import save_tiny_vlm

    model = save_tiny_vlm(tmp_path / "model")
    lines = questions.read_text().replace("what is", "w11 w12 w13")
    questions.write_text(lines)
    out = tmp_path / "labels.json"
    call = ("calibrate-modality", model, "--prompts", questions, "--threshold", 1.2, "--batch-size", 2)
    status, text, error = evenmoe(*call, "--out", out, "--json", tmp_path / "again.json")
    assert status == 0, error
    labels = read_expert_modality(out)
    assert (tmp_path / "again.json").read_bytes() == out.read_bytes()
    assert [len(row) for row in labels.rows] == [8, 8]
    assert {"visual", "text"} <= {label for row in labels.rows for label in row}
    assert "threshold 1.2, 48 image and" in labels.method
    assert str(labels.counts(0)["visual"]) in text
    before = out.read_bytes()
    assert evenmoe(*call, "--out", out)[0] == 0
    assert out.read_bytes() == before, "the same command gives the same bytes"
    status, _, error = evenmoe(
        "calibrate-modality", model, "--threshold", 0.5, "--limit", 2, "--out", tmp_path / "no.json"
    )
    assert status == 2
    assert "threshold" in error
    assert not (tmp_path / "no.json").exists()
