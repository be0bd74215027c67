"""The tiny recipe's corpus and tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.tools.tiny_recipe import TINY, tiny_source
from tools.text_model.corpus import write_corpus
from tools.text_model.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny corpus on disk."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus([tiny_source("alpha"), tiny_source("beta")], TINY, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    """The tokenizer of the tiny corpus."""
    return train_tokenizer(corpus, TINY)
