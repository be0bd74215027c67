"""lmms-eval's requests as prompts, without lmms-eval: what is asked, how answers end, what is refused."""

from types import SimpleNamespace

import pytest
from PIL import Image

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.vision.lmms_eval.questions import (
    MAX_NEW_TOKENS,
    Ending,
    by_task,
    continuation_of,
    ending_of,
    images_of,
    prompt_of,
)
from evenmoe.evaluation.vision.sources import LazyRows

PICTURE = Image.new("RGB", (4, 4))


def request(task, doc_id=0, *, second=None, visuals=(PICTURE,)):
    return SimpleNamespace(
        task_name=task, args=(f"question {doc_id}", second, lambda _doc: list(visuals), doc_id, task, "test")
    )


def test_requests_are_taken_task_by_task_in_their_order():
    requests = [request("a", 0), request("a", 1), request("b", 0), request("a", 2)]
    found = [(task, places) for task, places, _ in by_task(requests)]
    assert found == [("a", [0, 1]), ("b", [2]), ("a", [3])]
    assert [rows for _, _, rows in by_task(requests)] == [requests[:2], [requests[2]], [requests[3]]]


def test_a_prompt_has_the_document_s_images_and_the_task_s_limit():
    seen = []
    documents = {"a": {"test": ["zero", "one"]}}
    asked = SimpleNamespace(args=("text", {}, lambda doc: seen.append(doc) or [PICTURE], 1, "a", "test"))
    prompt = prompt_of(asked, documents, 7)
    assert (prompt.text, prompt.images, prompt.max_new_tokens) == ("text", (PICTURE,), 7)
    assert seen == ["one"]


def test_a_continuation_is_text_or_made_from_the_document():
    documents = {"a": {"test": [{"answer": "red"}]}}
    assert continuation_of(request("a", second=" blue"), documents) == " blue"
    assert continuation_of(request("a", second=lambda doc: doc["answer"]), documents) == "red"


def test_rows_are_made_only_when_asked_for():
    made = []
    rows = LazyRows(range(6), lambda number: made.append(number) or number * 10)
    assert len(rows) == 6
    assert rows[2:4] == [20, 30]
    assert rows[5] == 50
    assert made == [2, 3, 5]


def test_greedy_decoding_is_read_from_every_way_to_say_it():
    assert ending_of("t", {}) == Ending(max_new_tokens=MAX_NEW_TOKENS)
    said = {
        "max_new_tokens": 5,
        "temperature": 0,
        "top_p": 1.0,
        "num_beams": 1,
        "do_sample": False,
        "until": "\n",
    }
    assert ending_of("t", said) == Ending(max_new_tokens=5, until=("\n",))
    assert ending_of("t", {"do_sample": False, "temperature": 0.7}).until == ()
    assert ending_of("t", {"image_aspect_ratio": "pad", "until": ["a", "b"]}).until == ("a", "b")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 0.2}, "temperature"),
        ({"do_sample": True}, "temperature"),
        ({"num_beams": 4}, "num_beams"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ],
)
def test_anything_but_greedy_decoding_is_refused(options, field):
    with pytest.raises(ConfigError, match=f"task_x: .*{field}"):
        ending_of("task_x", options)


def test_an_answer_ends_before_the_first_stop():
    assert Ending(max_new_tokens=9, until=("\n", "STOP")).cut(" red STOP and\nmore") == "red"
    assert Ending(max_new_tokens=9).cut("red\nmore ") == "red\nmore"


@pytest.mark.parametrize(
    ("visual", "kind"),
    [("clip.mp4", "a video"), ({"array": [0.0], "sampling_rate": 16000}, "sound"), (3, "a int")],
)
def test_videos_and_sound_are_refused(visual, kind):
    with pytest.raises(UnsupportedModelError, match=f"task_x shows {kind}"):
        images_of("task_x", [PICTURE, visual])


def test_a_question_may_have_no_image():
    assert images_of("t", None) == images_of("t", []) == ()
