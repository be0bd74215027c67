"""The bundled text model and its prompts, once for the folder."""

import gc

import pytest

import evenmoe
from evenmoe.models.bundled import bundled_tokenizer

TEXTS = (
    "def read_lines(path):\n    with open(path) as file:\n        for line in",
    "The history of the town begins in the ninth century, when",
    "Wenn die Datei nicht gefunden wird",
    "import os\nimport sys\n\ndef main(",
    "It was a dark night, and the",
    "x",
)


@pytest.fixture(scope="session", autouse=True)
def _what_is_there_already_is_not_searched():
    """transformers collects garbage by hand, twice for every batch, which takes longer than the batch."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def text_model():
    return evenmoe.load_bundled("text")


@pytest.fixture(scope="session")
def text_tokenizer():
    return bundled_tokenizer("text")


@pytest.fixture(scope="session")
def prompts(text_tokenizer):
    return [text_tokenizer.encode(text) for text in TEXTS]
