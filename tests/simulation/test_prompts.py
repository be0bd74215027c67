"""Prompts are found in the files that there are, and damage is named by line."""

import gzip
import json
from pathlib import Path

import pytest

from evenmoe.errors import FileFormatError
from evenmoe.simulation.workloads.prompts import Prompt, read_prompts, tokenized
from tests.simulation.trace_cases import written

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "prompts"
recorded = pytest.mark.skipif(not RECORDED.exists(), reason="the recorded prompts are not here")


@recorded
@pytest.mark.parametrize(
    ("name", "number", "topics", "first"),
    [
        ("gsm8k_test.jsonl", 1319, {"gsm8k_test"}, "Janet’s ducks lay 16 eggs"),
        ("humaneval.jsonl.gz", 164, {"humaneval"}, "from typing import List"),
        ("mt_bench.jsonl", 80, 8, "Compose an engaging travel blog post"),
        ("arena_hard_v2.jsonl", 750, {"hard_prompt", "creative_writing"}, "Write me a zig program"),
    ],
)
def test_the_recorded_prompts_are_read(name, number, topics, first):
    prompts = read_prompts(RECORDED / name)
    found = {prompt.topic for prompt in prompts}
    assert len(prompts) == number
    assert found == topics or len(found) == topics
    assert prompts[0].text.startswith(first)


def test_fields_are_detected_or_named(tmp_path):
    bodies = [
        {"question": "a?", "turns": ["b"], "lesson": "x", "body": "c"},
        {"question": "d?", "topic": "t", "lesson": "y", "body": "e"},
    ]
    text = "\n".join(map(json.dumps, bodies)) + "\n\n"
    for name in ("some.prompts.jsonl", "some.prompts.jsonl.gz"):
        path = written(tmp_path, name, text)
        assert read_prompts(path) == [Prompt(text="a?", topic="some.prompts"), Prompt(text="d?", topic="t")]
        assert read_prompts(path, field="body", topic_field="lesson") == [
            Prompt(text="c", topic="x"),
            Prompt(text="e", topic="y"),
        ]
    assert [prompt.text for prompt in read_prompts(path, field="question")] == ["a?", "d?"]


def test_a_conversation_is_its_opening(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"turns": ["first", "second"]}')
    assert read_prompts(path) == [Prompt(text="first", topic="a")]


def test_a_text_file_is_a_prompt_a_line(tmp_path):
    path = written(tmp_path, "asked.txt", "one\n\n  two \r\nthree")
    assert [(prompt.text, prompt.topic) for prompt in read_prompts(path)] == [
        (word, "asked") for word in ("one", "two", "three")
    ]


def test_prompts_by_topic_as_tokens():
    prompts = [
        Prompt(text=text, topic=topic) for text, topic in (("ab", "x"), ("", "y"), ("c", "z"), ("d", "x"))
    ]
    ids = tokenized(prompts, lambda text: [ord(letter) for letter in text])
    assert {topic: [one.tolist() for one in some] for topic, some in ids.items()} == {
        "x": [[97, 98], [100]],
        "z": [[99]],
    }


@pytest.mark.parametrize(
    ("text", "settings", "line", "says"),
    [
        ('{"prompt": "a"}\n{"prompt": "b', {}, 2, "JSON = "),
        ('{"prompt": "a"}\n["b"]', {}, 2, "JSON = ['b']"),
        ('{"words": "a"}', {}, 1, "one of prompt, question, text, turns"),
        ('{"prompt": "a"}\n{"question": "b"}', {}, 2, "a field prompt"),
        ('{"prompt": "a"}\n{"prompt": " "}', {}, 2, "prompt = ' '"),
        ('{"prompt": "a"}\n\n{"prompt": 7}', {}, 3, "prompt = 7"),
        ('{"turns": []}', {}, 1, "turns = []"),
        ('{"turns": [""]}', {}, 1, "turns = ['']"),
        ('{"prompt": "a", "category": 3}', {}, 1, "category = 3"),
        ('{"prompt": "a"}', {"field": "ask"}, 1, "a field ask"),
        ('{"prompt": "a"}', {"topic_field": "tag"}, 1, "a field tag"),
    ],
)
def test_damage_is_named(tmp_path, text, settings, line, says):
    path = written(tmp_path, "a.jsonl", text)
    with pytest.raises(FileFormatError) as refused:
        read_prompts(path, **settings)
    assert f"{path}, line {line}: " in str(refused.value)
    assert says in str(refused.value)


def test_files_that_are_none(tmp_path):
    for name, body, says in (
        ("a.jsonl", b"", "is empty"),
        ("a.txt", b"\n \n", "is empty"),
        ("a.txt", b"good\nb\xe4d", "line 2: byte 0xe4"),
        ("a.csv", b"x", "must end in .jsonl or .txt"),
        ("a.jsonl.gz", gzip.compress(b"x")[:-4], "cannot be unpacked"),
    ):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(FileFormatError, match=says):
            read_prompts(tmp_path / name)
    with pytest.raises(FileFormatError, match="topic_field"):
        read_prompts(written(tmp_path, "a.txt", "x"), topic_field="topic")
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "b.txt")
