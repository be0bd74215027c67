"""The tokenizer: byte-level BPE trained on the corpus."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tools.text_model.corpus import read_texts
from tools.text_model.recipe import END_OF_TEXT, PADDING, Recipe

TokenIds = npt.NDArray[np.int64]


def train_tokenizer(corpus: Path, recipe: Recipe) -> Tokenizer:
    """Train on the first `tokenizer_bytes` of each domain; every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(corpus, recipe), trainer)
    return tokenizer


def _training_texts(corpus: Path, recipe: Recipe) -> Iterator[str]:
    for domain in recipe.domains:
        num_bytes = 0
        for text in read_texts(corpus / "train" / f"{domain}.txt"):
            if num_bytes >= recipe.tokenizer_bytes:
                break
            num_bytes += len(text.encode())
            yield text


def save_tokenizer(tokenizer: Tokenizer, recipe: Recipe, out: Path) -> None:
    """Write the files that `AutoTokenizer.from_pretrained` reads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=PADDING,
        model_max_length=recipe.max_positions, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    wrapped.save_pretrained(out)


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> TokenIds:
    """One stream of ids: each document preceded by the end-of-text token, and one more at the end."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    stream = [end]
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        stream += [*encoding.ids, end]
    return np.array(stream, np.int64)


def encode_corpus(tokenizer: Tokenizer, corpus: Path, recipe: Recipe, part: str) -> dict[str, TokenIds]:
    """The id stream of every domain; `part` is `train` or `heldout`."""
    return {
        domain: encode_texts(tokenizer, read_texts(corpus / part / f"{domain}.txt"))
        for domain in recipe.domains
    }
