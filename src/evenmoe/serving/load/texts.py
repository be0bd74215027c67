"""Prompts out of running text, such as the held-out text that ships: pieces of so many words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_int
from evenmoe.simulation.workloads.prompts import Prompt

_WORD = re.compile(r"\s*\S+")


def heldout_texts() -> dict[str, str]:
    """The held-out text that ships with the bundled text model, by domain in alphabetical order."""
    folder = files("evenmoe").joinpath("models", "bundled", "text", "heldout")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return {
        entry.name.removesuffix(".txt"): entry.read_text(encoding="utf-8")
        for entry in sorted(found, key=lambda entry: entry.name)
    }


def prompts_of_texts(texts: Mapping[str, str], words: int) -> list[Prompt]:
    """Each text is a topic, cut into as many prompts of `words` words as it holds, white space as it was.

    Raises ConfigError for a text shorter than one prompt.
    """
    check_int("prompt_words", words, 1)
    prompts = []
    for topic, text in texts.items():
        pieces = _WORD.findall(text)
        if len(pieces) < words:
            raise ConfigError("prompt_words", words, f"at most the {len(pieces)} words of {topic!r}")
        for start in range(0, len(pieces) - words + 1, words):
            prompts.append(Prompt(text="".join(pieces[start : start + words]).lstrip(), topic=topic))
    return prompts
