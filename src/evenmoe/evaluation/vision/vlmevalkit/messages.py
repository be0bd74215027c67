"""VLMEvalKit's messages and rows as prompts, and answers in words as the letters of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from PIL import Image

from evenmoe.errors import UnsupportedModelError
from evenmoe.evaluation.vision.prompts import Prompt
from evenmoe.evaluation.vision.scoring import is_right

Message = Sequence[Mapping[str, Any]]
"""What VLMEvalKit asks: parts, each with a "type" ("image", "text") and a "value" (a file, or the text)."""

OPTIONS = "options"
"""The key under which the text of a bare question carries its options, letter to text."""

NO_OPTION = "Z"
"""VLMEvalKit's own letter for an answer that is none of the options."""


def prompt_of(message: Message, max_new_tokens: int) -> Prompt:
    """Return what a message asks, its images read.

    Raises UnsupportedModelError for what is neither image nor text, and for an image after text: images stand first.
    """
    kinds = [str(part["type"]) for part in message]
    if other := next((kind for kind in kinds if kind not in ("image", "text")), None):
        raise UnsupportedModelError(f"VLMEvalKit shows {other}: the model evenmoe takes images and text only")
    if kinds != sorted(kinds):
        raise UnsupportedModelError(
            "VLMEvalKit shows an image after text: the model evenmoe takes images first"
        )
    text = "\n".join(part["value"] for part in message if part["type"] == "text")
    return Prompt(text=text, images=tuple(map(_image, _files(message))), max_new_tokens=max_new_tokens)


def identity_of(message: Message) -> tuple[tuple[str, str], ...]:
    """Return what tells a message from the others of a benchmark."""
    return tuple((str(part["type"]), str(part["value"])) for part in message)


def bare_question(row: Mapping[str, Any], images: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row of a benchmark as a message of its images and its question alone; options are carried, not shown."""
    parts: list[dict[str, Any]] = [{"type": "image", "value": file} for file in images]
    return [*parts, {"type": "text", "value": str(row["question"]), OPTIONS: options_of(row)}]


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that a row has, letter to text."""
    found = {letter: row[letter] for letter in ascii_uppercase if letter in row}
    return {
        letter: str(text) for letter, text in found.items() if text == text
    }  # NaN, no option, is not itself


def lettered(answer: str, message: Message) -> str:
    """Return the letter of the option that an answer to a bare question names, or the answer where there are none.

    VLMEvalKit looks for an option's text anywhere in the answer, so that "12" would name "1", "2" and "12". Here an
    option is named by its whole text alone.
    """
    options: Mapping[str, str] = next((part[OPTIONS] for part in message if OPTIONS in part), {})
    letters = [letter for letter, text in options.items() if is_right(answer, text)]
    return letters[0] if letters else NO_OPTION if options else answer


def _files(message: Message) -> list[str]:
    return [part["value"] for part in message if part["type"] == "image"]


def _image(file: str) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")
